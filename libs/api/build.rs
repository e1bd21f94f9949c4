//! Lists `src/kinds/*.rs` into `kinds.rs`: adding a kind is adding a file. Each file names its type as `Served`.

use std::{env, fmt::Write as _, fs, path::Path};

fn main() {
    let root = env::var("CARGO_MANIFEST_DIR").expect("cargo sets it");
    let folder = Path::new(&root).join("src/kinds");
    println!("cargo::rerun-if-changed={}", folder.display());
    let mut names: Vec<String> = fs::read_dir(&folder)
        .expect("src/kinds is there")
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter_map(|file| file.strip_suffix(".rs").map(str::to_owned))
        .filter(|name| name != "mod")
        .collect();
    names.sort();

    let mut out = String::new();
    for name in &names {
        let path = folder.join(format!("{name}.rs"));
        let _ = writeln!(out, "#[path = {path:?}]\npub mod {name};");
    }
    let _ = writeln!(out, "/// The files of kinds, in order.\npub const FILES: &[&str] = &{names:?};");
    let _ = writeln!(out, "/// Every served kind.\npub fn all() -> Vec<Kind> {{\n    vec![");
    for name in &names {
        let _ = writeln!(out, "        Kind::of::<{name}::Served>(),");
    }
    let _ = writeln!(out, "    ]\n}}");
    let _ =
        writeln!(out, "/// The facts of every served kind, in the order of [`all`].\npub static INFOS: &[KindInfo] = &[");
    for name in &names {
        let _ = writeln!(out, "    <{name}::Served as Resource>::INFO,");
    }
    let _ = writeln!(out, "];");
    let target = Path::new(&env::var("OUT_DIR").expect("cargo sets it")).join("kinds.rs");
    fs::write(target, out).expect("OUT_DIR can be written");
}
