//! Counters: every drop, retry, gap and reopen has one.
