//! Samples to tensors: one preprocessing for training and for running.
