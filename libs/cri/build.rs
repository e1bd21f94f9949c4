//! Generates messages, clients and servers from `proto/`.

fn main() -> std::io::Result<()> {
    let root = "../../proto";
    println!("cargo:rerun-if-changed={root}");
    tonic_prost_build::configure()
        .build_transport(false)
        .skip_debug([".runtime.v1.AuthConfig"])
        .compile_protos(&[format!("{root}/runtime/v1/api.proto")], &[root.to_owned()])
}
