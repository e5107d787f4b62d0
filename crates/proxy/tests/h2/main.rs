//! The HTTP/2 engine.

mod fuzzed;
mod living;
mod peer;
mod served;
mod shared;
mod windows;
