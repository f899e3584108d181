//! Peak memory of decoding one picture:
//!
//! `cargo run --release -p likeness-diffusion --example decode -- MODEL SIDE [TILE]`
//!
//! decodes noise of SIDE × SIDE pixels with the VAE of the directory MODEL, as rendering does, or in tiles of TILE pixels; with
//! TILE = SIDE the picture is decoded whole. Prints the seconds, and the most memory that was resident (Linux), MiB, before and after.

use std::path::PathBuf;
use std::time::Instant;

use likeness_diffusion::{Computing, Device, NoiseKey, Purpose, Vae, memory};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    memory::keep_freed_memory();
    let mut arguments = std::env::args().skip(1);
    let (Some(model), Some(side)) = (arguments.next(), arguments.next()) else {
        return Err("usage: decode MODEL SIDE [TILE]".into());
    };
    let (side, tile) = (side.parse::<usize>()?, arguments.next().map(|tile| tile.parse::<usize>()).transpose()?);
    let vae = Vae::load(&PathBuf::from(model).join("vae"), Computing::default(), &Device::Cpu, None)?;
    let latents = side / vae.factor();
    let key = NoiseKey { seed: 0, purpose: Purpose::Latents, step: 0, sample: 0 };
    let latents = key.normal((1, vae.channels(), latents, latents), &Device::Cpu)?;
    let (before, began) = (peak(), Instant::now());
    let pixels = match tile {
        Some(tile) => vae.decode_tiled(&latents, tile / vae.factor())?,
        None => vae.decode(&latents)?,
    };
    let seconds = began.elapsed().as_secs_f64();
    println!("{:?} in {seconds:.1} s, peak {before:.0} MiB before, {:.0} MiB after", pixels.shape(), peak());
    Ok(())
}

/// `VmHWM` of this process, MiB.
fn peak() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<f64>().ok());
    kib.map_or(f64::NAN, |kib| kib / 1024.0)
}
