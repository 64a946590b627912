//! One step from samples to events.
