// llhttp, in strict mode, for crates/proxy/tests/h1/differential. The npm package `llhttp` is from 2018; the
// current one is published as WebAssembly in `undici`, whose own code is not used.
//
// A line in: {"response": bool, "head": bool, "bytes": base64}. `head`: it answers a HEAD.
// A line out: what the parser makes of the bytes, or {"splits": [...]} where that depends on how they are cut.

import { createRequire } from 'node:module'
import { createInterface } from 'node:readline'

const module = new WebAssembly.Module(createRequire(import.meta.url)('undici/lib/llhttp/llhttp-wasm.js'))

const OK = 0
const PAUSED_UPGRADE = 22
const BOTH = { request: 1, response: 2 }

// What the callbacks write to.
let now = null

const text = (at, length) => Buffer.from(llhttp.memory.buffer, at, length).toString('latin1')

const named = (pointer) => {
  const memory = new Uint8Array(llhttp.memory.buffer)
  return text(pointer, memory.indexOf(0, pointer) - pointer)
}

const append = (section, part, at, length) => {
  // A name after a value begins a line.
  if (part === 0 && (section.length === 0 || section.at(-1)[2] === 1)) section.push(['', '', 0])
  section.at(-1)[part] += text(at, length)
  section.at(-1)[2] = part
  return 0
}

const env = {
  wasm_on_message_begin: () => {
    now.messages.push({ target: '', reason: '', fields: [], trailers: [], body: '', whole: false, open: true })
    return 0
  },
  wasm_on_url: (_, at, length) => { now.messages.at(-1).target += text(at, length); return 0 },
  wasm_on_status: (_, at, length) => { now.messages.at(-1).reason += text(at, length); return 0 },
  wasm_on_header_field: (_, at, length) => append(section(), 0, at, length),
  wasm_on_header_value: (_, at, length) => append(section(), 1, at, length),
  wasm_on_headers_complete: (parser, status) => {
    const message = now.messages.at(-1)
    message.open = false
    if (now.job.response) message.status = status
    else message.method = named(llhttp.llhttp_method_name(llhttp.llhttp_get_method(parser)))
    return now.job.head ? 1 : 0
  },
  wasm_on_body: (_, at, length) => { now.messages.at(-1).body += text(at, length); return 0 },
  wasm_on_message_complete: () => { now.messages.at(-1).whole = true; return 0 }
}

const llhttp = new WebAssembly.Instance(module, { env }).exports

const section = () => {
  const message = now.messages.at(-1)
  return message.open ? message.fields : message.trailers
}

const parse = (job, pieces) => {
  now = { job, messages: [] }
  const parser = llhttp.llhttp_alloc(job.response ? BOTH.response : BOTH.request)
  let error = OK
  for (let piece of pieces) {
    while (error === OK && piece.length > 0) {
      const at = llhttp.malloc(piece.length)
      new Uint8Array(llhttp.memory.buffer, at, piece.length).set(piece)
      error = llhttp.llhttp_execute(parser, at, piece.length)
      if (error !== PAUSED_UPGRADE) piece = []
      else {
        // A server that goes on with HTTP/1.1, as it may.
        piece = piece.subarray(llhttp.llhttp_get_error_pos(parser) - at)
        llhttp.llhttp_resume_after_upgrade(parser)
        error = OK
      }
      llhttp.free(at)
    }
  }
  if (error === OK) error = llhttp.llhttp_finish(parser)
  const result = { error: error === OK ? null : named(llhttp.llhttp_errno_name(error)), messages: now.messages }
  llhttp.llhttp_free(parser)
  for (const message of result.messages) {
    delete message.open
    const trimmed = ([name, value]) => [name, value.replace(/[ \t]+$/, '')]
    message.fields = message.fields.map(trimmed)
    message.trailers = message.trailers.map(trimmed)
  }
  return result
}

const splits = function * (bytes) {
  // Long ones are about their length.
  const step = 1 + Math.floor(bytes.length / 400)
  for (let at = 1; at < bytes.length; at += step) yield [bytes.subarray(0, at), bytes.subarray(at)]
  const single = []
  for (let at = 0; at < bytes.length; at += step) single.push(bytes.subarray(at, at + step))
  yield single
}

// What matters of a result: how far a broken message had come is told by where it was cut.
const meaning = ({ error, messages }) => JSON.stringify({ error, messages: messages.filter(({ whole }) => whole) })

for await (const line of createInterface({ input: process.stdin })) {
  const job = JSON.parse(line)
  const bytes = Buffer.from(job.bytes, 'base64')
  const whole = parse(job, [bytes])
  const told = meaning(whole)
  for (const pieces of splits(bytes)) {
    const result = parse(job, pieces)
    if (meaning(result) !== told) {
      whole.splits = [...(whole.splits ?? []), { at: pieces[0].length, ...result }]
      break
    }
  }
  console.log(JSON.stringify(whole))
}
