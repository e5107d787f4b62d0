//! The HTTP/2 engine.

mod fuzzed;
mod windows;
