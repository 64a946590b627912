//! Threads, pacing, restart.
