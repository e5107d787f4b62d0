//! A controller and proxies, over real sockets.

mod change;
mod harness;
mod hostile;
mod loss;
mod peers;
mod refusal;
mod tickets;
