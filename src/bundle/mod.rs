//! Opens a bundle directory: manifest, models, labels, catalogue, checked before any device is opened.
