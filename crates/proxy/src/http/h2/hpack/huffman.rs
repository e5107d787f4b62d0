//! The Huffman code of strings (RFC 7541 appendix B). It is canonical: the codes follow from their lengths.

use bytes::{BufMut, BytesMut};

use super::Malformed;

/// The length in bits of each byte's code. That of EOS, which never stands in a string, has 30.
#[rustfmt::skip]
static LENGTHS: [u8; 256] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28,
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5,
    6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23,
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25,
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
];

const LONGEST: usize = 30;

/// The code of each byte, in its low bits.
static CODES: [u32; 256] = CANON.0;
/// Bytes in the order of their codes.
static SORTED: [u8; 256] = CANON.1;
/// By length: the first code of that length, and which of [`SORTED`] it is; the last entry ends the others.
static FIRST: [(u32, u16); LONGEST + 2] = CANON.2;

const CANON: ([u32; 256], [u8; 256], [(u32, u16); LONGEST + 2]) = {
    let mut codes = [0; 256];
    let mut sorted = [0; 256];
    let mut first = [(0, 0); LONGEST + 2];
    let (mut code, mut count, mut length) = (0u32, 0u16, 1);
    while length <= LONGEST {
        code <<= 1;
        first[length] = (code, count);
        let mut byte = 0;
        while byte < 256 {
            if LENGTHS[byte] as usize == length {
                codes[byte] = code;
                sorted[count as usize] = byte as u8;
                code += 1;
                count += 1;
            }
            byte += 1;
        }
        length += 1;
    }
    first[LONGEST + 1] = (code << 1, count);
    (codes, sorted, first)
};

/// By the next 8 bits: the byte whose code they begin with, and its length; 0: it is longer.
static SHORT: [(u8, u8); 256] = {
    let mut table = [(0, 0); 256];
    let mut byte = 0;
    while byte < 256 {
        let length = LENGTHS[byte];
        if length <= 8 {
            let begin = (CANON.0[byte] << (8 - length)) as usize;
            let mut rest = 0;
            while rest < 1 << (8 - length) {
                table[begin + rest] = (byte as u8, length);
                rest += 1;
            }
        }
        byte += 1;
    }
    table
};

/// Decodes a string, behind what is in `out`. It gets at most 8/5 as long.
pub(super) fn decode(mut input: &[u8], out: &mut Vec<u8>) -> Result<(), Malformed> {
    out.reserve(input.len() * 8 / 5 + 1);
    // The next bits are the highest; `count` of them are of the input, those below are zero.
    let (mut bits, mut count) = (0u64, 0u32);
    loop {
        if count <= 32 {
            if let Some((word, rest)) = input.split_first_chunk::<4>() {
                bits |= u64::from(u32::from_be_bytes(*word)) << (32 - count);
                count += 32;
                input = rest;
            } else if let Some((byte, rest)) = input.split_first() {
                bits |= u64::from(*byte) << (56 - count);
                count += 8;
                input = rest;
                continue;
            }
        }
        let (byte, length) = SHORT[(bits >> 56) as usize];
        if length > 0 && u32::from(length) <= count {
            out.push(byte);
            bits <<= length;
            count -= u32::from(length);
            continue;
        }
        // RFC 7541 section 5.2: padded with less than 8 of the highest bits of EOS, which are ones.
        if count < 8 {
            let padding = if count == 0 { 0 } else { bits >> (64 - count) };
            return if padding == (1 << count) - 1 { Ok(()) } else { Err(Malformed) };
        }
        let (byte, length) = long(bits).ok_or(Malformed)?;
        if length > count {
            return Err(Malformed);
        }
        out.push(byte);
        bits <<= length;
        count -= length;
    }
}

/// The byte whose code of more than 8 bits these begin with, and its length; `None` for EOS.
#[cold]
fn long(bits: u64) -> Option<(u8, u32)> {
    (9..=LONGEST).find_map(|length| {
        let code = (bits >> (64 - length)) as u32;
        let ((first, begin), (_, end)) = (FIRST[length], FIRST[length + 1]);
        let index = code.checked_sub(first)?;
        (index < u32::from(end - begin)).then(|| (SORTED[usize::from(begin) + index as usize], length as u32))
    })
}

/// Bytes that a string takes when it is encoded.
pub(super) fn encoded_len(text: &[u8]) -> usize {
    text.iter().map(|byte| usize::from(LENGTHS[usize::from(*byte)])).sum::<usize>().div_ceil(8)
}

/// Encodes a string.
pub(super) fn encode(text: &[u8], out: &mut BytesMut) {
    let (mut bits, mut count) = (0u64, 0u32);
    for byte in text {
        let length = u32::from(LENGTHS[usize::from(*byte)]);
        bits = bits << length | u64::from(CODES[usize::from(*byte)]);
        count += length;
        while count >= 8 {
            count -= 8;
            out.put_u8((bits >> count) as u8);
        }
    }
    if count > 0 {
        out.put_u8((bits << (8 - count)) as u8 | 0xff >> count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(input: &[u8]) -> Result<Vec<u8>, Malformed> {
        let mut out = Vec::new();
        decode(input, &mut out).map(|()| out)
    }

    #[test]
    fn every_byte_goes_there_and_back() {
        let mut all: Vec<u8> = (0..=255).collect();
        all.extend((0..=255).rev().flat_map(|byte| [byte, b'a']));
        for text in [&all[..], b"", b"www.example.com", b"/", &[0xff; 9], &[22, 10]] {
            let mut out = BytesMut::new();
            encode(text, &mut out);
            assert_eq!(out.len(), encoded_len(text));
            assert_eq!(decoded(&out).as_deref(), Ok(text));
        }
    }

    #[test]
    fn as_in_the_standard() {
        // RFC 7541 appendix C.4.1.
        let mut out = BytesMut::new();
        encode(b"www.example.com", &mut out);
        assert_eq!(&out[..], [0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff]);
    }

    #[test]
    fn padding_is_checked() {
        assert_eq!(decoded(&[0b0001_1111]), Ok(b"a".to_vec()), "a and three ones");
        assert_eq!(decoded(&[0b0001_1000]), Err(Malformed), "other padding");
        assert_eq!(decoded(&[0b0001_1111, 0xff]), Err(Malformed), "more than 7 bits");
        assert_eq!(decoded(&[0xff]), Err(Malformed), "nothing but padding");
        assert_eq!(decoded(&[0xff, 0xff, 0xff, 0xff]), Err(Malformed), "EOS");
        assert_eq!(decoded(&[0xff, 0xff, 0xff, 0xfc, 0x1f]), Err(Malformed), "EOS and more");
    }
}
