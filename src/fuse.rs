//! Attention over the encoders' tokens, with mask, age and leave-one-out contributions.
