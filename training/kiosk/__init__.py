"""Training of the kiosk bundle: one module per encoder, one for the fusion, and what they share in `common`."""
