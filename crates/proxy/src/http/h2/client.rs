//! The backends side.
