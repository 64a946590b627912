//! Fused probabilities to decisions and advice.
