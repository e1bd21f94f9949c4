//! How property tests run here: a bounded number of cases, the same ones every time, nothing written to disk.

use proptest::test_runner::{Config, RngSeed};

/// A configuration with a fixed seed.
pub fn cases(cases: u32) -> Config {
    Config { cases, rng_seed: RngSeed::Fixed(0x006b_6e61_7272), failure_persistence: None, ..Config::default() }
}
