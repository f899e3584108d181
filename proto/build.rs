//! Compiles the protos without protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let protos = ["common", "avatars", "workers"].map(|name| format!("likeness/v1/{name}.proto"));
    println!("cargo:rerun-if-changed=likeness");
    let descriptors = protox::compile(protos, ["."])?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
