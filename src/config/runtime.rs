//! `attendant.toml`: what the device itself is told: sources, sinks, language.
