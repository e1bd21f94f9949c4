//! Asks the linker for the short form of relocations (`DT_RELR`): what a position-independent program patches at its start takes
//! 3 MiB in the long form, which every process has in memory from then on. Debian 12's glibc (2.36) and later ones read it.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let target = |name: &str| std::env::var(format!("CARGO_CFG_TARGET_{name}")).unwrap_or_default();
    if target("OS") == "linux" && target("ENV") == "gnu" {
        println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}
