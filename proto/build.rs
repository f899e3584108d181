//! Compiles the protos without protoc, and keeps their descriptors for reflection.

use protox::prost::Message;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let protos = ["common", "avatars", "workers", "ranks", "admin"].map(|name| format!("likeness/v1/{name}.proto"));
    println!("cargo:rerun-if-changed=likeness");
    let mut descriptors = protox::compile(protos, ["."])?;
    // Payloads of collective calls are passed on, not copied.
    let config = tonic_prost_build::configure()
        .codec_path("crate::codec::Codec")
        .bytes(".likeness.v1.RankPart")
        .bytes(".likeness.v1.JoinResponse");
    config.compile_fds(descriptors.clone())?;
    // Comments are for those who read the protos.
    descriptors.file.iter_mut().for_each(|file| file.source_code_info = None);
    let out = std::path::PathBuf::from(std::env::var_os("OUT_DIR").ok_or("cargo sets no OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    Ok(())
}
