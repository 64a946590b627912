//! Events to the outside: JSON lines, the live view.
