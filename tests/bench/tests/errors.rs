//! What the program says when it cannot do what it was asked.

use std::process::Command;

#[test]
fn errors_are_told_without_a_backtrace() {
    let ran = Command::new(env!("CARGO_BIN_EXE_knarr-bench")).arg("nonsense").env("RUST_BACKTRACE", "1").output().unwrap();
    let said = String::from_utf8(ran.stderr).unwrap();
    assert!(said.starts_with("error: there is no bench \"nonsense\"; there are: cold idle "), "{said}");
    assert_eq!((ran.status.code(), said.lines().count()), (Some(1), 1), "{said}");
}
