//! Compiles the protos without protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let protos = ["common", "avatars", "workers", "ranks", "admin"].map(|name| format!("likeness/v1/{name}.proto"));
    println!("cargo:rerun-if-changed=likeness");
    let descriptors = protox::compile(protos, ["."])?;
    // Payloads of collective calls are passed on, not copied.
    let config = tonic_prost_build::configure().bytes(".likeness.v1.RankPart").bytes(".likeness.v1.JoinResponse");
    config.compile_fds(descriptors)?;
    Ok(())
}
