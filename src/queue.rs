//! Bounded hand-over between threads.
