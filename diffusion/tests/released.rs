//! Mapped weights under gradient checkpointing, against what this process holds of them. Alone in its process, since it reads all of
//! its mappings.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)] // helpers of tests may panic as tests do

#[path = "../src/golden.rs"]
#[allow(dead_code, unreachable_pub)]
mod golden;

use std::path::Path;

use candle_core::{Tensor, Var};
use golden::noise;
use likeness_diffusion::{BaseModel, Computing, Device, ModelCache};

/// What this process holds of files in `folder` that are mapped, KiB.
fn held(folder: &Path) -> u64 {
    let (maps, mut ours, mut sum) = (std::fs::read_to_string("/proc/self/smaps").unwrap(), false, 0);
    for line in maps.lines() {
        if line.contains("-p ") || line.contains("-s ") {
            ours = line.contains(folder.to_str().unwrap());
        }
        if let Some(rss) = line.strip_prefix("Rss:").filter(|_| ours) {
            sum += rss.trim().trim_end_matches(" kB").parse::<u64>().unwrap();
        }
    }
    sum
}

/// The gradient of a step with respect to the context.
fn step(model: &BaseModel) -> Vec<f32> {
    let context = Var::from_tensor(&noise(1, &[2, 77, model.unet.config().cross_attention_dim])).unwrap();
    let out = model.unet.forward(&noise(2, &[2, 4, 16, 16]), &[500, 20], &context).unwrap();
    let gradients = out.sqr().unwrap().sum_all().unwrap().backward().unwrap();
    let flat: &Tensor = gradients.get(&context).unwrap();
    flat.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn under_checkpointing_mapped_weights_are_in_memory_only_while_they_are_used() {
    let (folder, dir) = (tempfile::tempdir().unwrap(), golden::model("avatar-tiny"));
    let held = || held(folder.path());
    let load = |checkpointing, cache: &ModelCache| {
        let computing = Computing { checkpointing, ..Computing::default() };
        BaseModel::load_cached(&dir, computing, &Device::Cpu, Some(cache)).unwrap()
    };
    let cache = || ModelCache::open(&folder.path().join("cache")).unwrap();
    let (want, all) = {
        let model = load(false, &cache());
        (step(&model), held())
    };
    assert!(all > 0, "what fills a cache is pages of it");

    let spill = ModelCache::spill(folder.path()).unwrap();
    for (start, cache) in [("a later start", cache()), ("without a cache", spill)] {
        let model = load(true, &cache);
        let got = step(&model);
        assert!(got == want, "{start}: weights that were given back are read again as they were");
        assert!(model.mapped > 0 && held() < all / 3, "{start}: {} of {all} KiB are held", held());

        let context = model.unet.context(&noise(1, &[77, model.unet.config().cross_attention_dim])).unwrap();
        let contexts = [vec![&context], vec![&context]];
        model.unet.predict(&noise(2, &[2, 4, 16, 16]), &[500.0, 20.0], &contexts).unwrap();
        assert!(held() < all / 3, "{start}: {} of {all} KiB are held after a pass without a way back", held());
    }
}
