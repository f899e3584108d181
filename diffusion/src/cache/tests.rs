use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::golden;
use crate::model::{BaseModel, Computing};
use crate::tokenizer::Prompt;
use candle_core::{DType, Device, Tensor};

/// A copy of a tiny model, and a folder for its cache.
struct Case {
    dir: tempfile::TempDir,
}

impl Case {
    fn new() -> Self {
        let (dir, source) = (tempfile::tempdir().unwrap(), golden::model("sd15-like"));
        for folder in ["scheduler", "text_encoder", "tokenizer", "unet", "vae"] {
            fs::create_dir_all(dir.path().join("model").join(folder)).unwrap();
            for file in fs::read_dir(source.join(folder)).unwrap() {
                let file = file.unwrap();
                fs::copy(file.path(), dir.path().join("model").join(folder).join(file.file_name())).unwrap();
            }
        }
        Self { dir }
    }

    /// As of a process that starts, long after the files were written.
    fn cache(&self) -> ModelCache {
        ModelCache { settled: Duration::ZERO, ..ModelCache::open(&self.dir.path().join("cache")).unwrap() }
    }

    fn load(&self, cache: Option<&ModelCache>) -> BaseModel {
        BaseModel::load_cached(&self.dir.path().join("model"), Computing::default(), &Device::Cpu, cache).unwrap()
    }

    fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.dir.path().join("cache")).unwrap();
        let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn panels(&self) -> Vec<PathBuf> {
        let names = self.files().into_iter().filter(|name| name.ends_with(".panels"));
        names.map(|name| self.dir.path().join("cache").join(name)).collect()
    }
}

/// What every part of a model makes of some input.
fn results(model: &BaseModel) -> Vec<Vec<f32>> {
    let ramp = |shape: &[usize]| {
        let count = shape.iter().product::<usize>() as u32;
        let ramp = Tensor::arange(0, count, &Device::Cpu).unwrap().to_dtype(DType::F32).unwrap();
        ramp.affine(2.0 / f64::from(count), -1.0).unwrap().reshape(shape).unwrap()
    };
    let prompt: Prompt = model.tokenizer.encode("a photo of a cat", None).unwrap();
    let context = model.text.forward(&[prompt], None).unwrap();
    let latents = ramp(&[1, model.vae.channels(), 16, 16]);
    let predicted = model.unet.forward(&latents, &[7], &context).unwrap();
    let side = 16 * model.vae.factor();
    let (encoded, decoded) = (model.vae.encode(&ramp(&[1, 3, side, side])), model.vae.decode(&latents));
    let all = [context, predicted, encoded.unwrap(), decoded.unwrap()];
    all.map(|tensor| tensor.flatten_all().unwrap().to_vec1().unwrap()).into()
}

#[test]
fn a_later_start_computes_the_same_bits_from_what_the_first_has_kept() {
    let case = Case::new();
    let plain = case.load(None);
    for start in ["first", "second", "third"] {
        let cache = case.cache();
        let model = case.load(Some(&cache));
        assert!(results(&model) == results(&plain), "{start} start");
        assert_eq!(model.digest, plain.digest, "{start} start");
        assert_eq!(case.files().len(), 4, "digests and three files of weights, {:?}", case.files());
        let kept: u64 = case.panels().iter().map(|path| fs::metadata(path).unwrap().len()).sum();
        assert_eq!(model.mapped, kept, "{start} start");
    }
}

#[test]
fn later_starts_read_the_panels_and_leave_the_files_alone() {
    let case = Case::new();
    case.load(Some(&case.cache()));
    let stamps = |case: &Case| -> Vec<Stamp> {
        case.panels().iter().map(|path| Stamp::of(&fs::metadata(path).unwrap())).collect()
    };
    let before = stamps(&case);
    // Zeros as weights: were they made of the model's files again, nothing would change.
    let plain = results(&case.load(Some(&case.cache())));
    assert!(stamps(&case) == before);
    for path in case.panels() {
        let mut bytes = fs::read(&path).unwrap();
        let start = 8 + u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
        bytes[start..].fill(0);
        fs::write(&path, bytes).unwrap();
    }
    assert!(results(&case.load(Some(&case.cache()))) != plain);
}

#[test]
fn damaged_foreign_and_old_files_are_made_again() {
    let case = Case::new();
    case.load(Some(&case.cache()));
    let plain = results(&case.load(None));
    let whole: Vec<Vec<u8>> = case.panels().iter().map(|path| fs::read(path).unwrap()).collect();
    type Damage = fn(&[u8]) -> Vec<u8>;
    let damages: [(&str, Damage); 4] = [
        ("cut off", |bytes| bytes[..bytes.len() - 1].to_vec()),
        ("empty", |_| Vec::new()),
        ("no header", |bytes| vec![0xff; bytes.len()]),
        ("another version", |bytes| {
            let (old, new) = (b"\"layout\":\"1 of", b"\"layout\":\"0 of");
            let at = bytes.windows(old.len()).position(|window| window == old).unwrap();
            [&bytes[..at], new, &bytes[at + new.len()..]].concat()
        }),
    ];
    for (name, damage) in damages {
        for (path, whole) in case.panels().iter().zip(&whole) {
            fs::remove_file(path).unwrap();
            fs::write(path, damage(whole)).unwrap();
        }
        assert!(results(&case.load(Some(&case.cache()))) == plain, "{name}");
        for path in case.panels() {
            let sha256 = path.file_stem().unwrap().to_str().unwrap().to_owned();
            assert!(Full::open(&path, &sha256).unwrap().is_some(), "{name}: made again");
        }
    }
    let [one, other, _] = &case.panels()[..] else { panic!("three files") };
    fs::rename(one, other).unwrap();
    assert!(results(&case.load(Some(&case.cache()))) == plain, "the panels of other weights");
}

#[test]
fn a_changed_weight_file_is_another_model() {
    let case = Case::new();
    let before = case.load(Some(&case.cache()));
    let path = case.dir.path().join("model/unet/diffusion_pytorch_model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&path, bytes).unwrap();
    let (after, plain) = (case.load(Some(&case.cache())), case.load(None));
    assert_ne!(after.digest, before.digest);
    assert_eq!(after.digest, plain.digest);
    assert!(results(&after) == results(&plain));
}

#[test]
fn files_that_have_only_just_changed_are_not_remembered() {
    let case = Case::new();
    let cache = ModelCache { settled: Duration::from_secs(3600), ..case.cache() };
    case.load(Some(&cache));
    assert_eq!(case.files(), [""; 0]);
}

#[test]
fn a_folder_that_cannot_be_written_is_no_reason_to_fail() {
    let case = Case::new();
    let cache = case.cache();
    fs::remove_dir(case.dir.path().join("cache")).unwrap();
    assert!(results(&case.load(Some(&cache))) == results(&case.load(None)));
}

#[test]
fn what_is_spilled_computes_the_same_bits_and_leaves_nothing() {
    let (case, folder) = (Case::new(), tempfile::tempdir().unwrap());
    let plain = case.load(None);
    for start in ["first", "second"] {
        let spill = ModelCache { settled: Duration::ZERO, ..ModelCache::spill(&folder.path().join("state")).unwrap() };
        let model = case.load(Some(&spill));
        assert_eq!(fs::read_dir(folder.path().join("state")).unwrap().count(), 0, "{start} start");
        assert!(model.mapped > 0 && results(&model) == results(&plain), "{start} start");
    }
}

#[test]
fn weights_that_a_full_disk_has_not_taken_are_prepared_again_in_memory() {
    let (case, weights) = (Case::new(), "model/unet/diffusion_pytorch_model.safetensors");
    let (cache, weights) = (case.cache(), case.dir.path().join(weights));
    let stamp = Stamp::of(&fs::metadata(&weights).unwrap());
    lock(&cache.filled).push(Filling::failed(&cache.folder, weights, stamp));
    let model = case.load(Some(&cache));
    assert!(results(&model) == results(&case.load(None)));
    assert_eq!(model.mapped, 0);
    assert_eq!(case.files(), [""; 0]);
}

#[test]
fn a_folder_that_others_may_read_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o750)).unwrap();
    let refusal = ModelCache::open(dir.path()).unwrap_err().to_string();
    assert!(refusal.contains("its owner's alone"), "{refusal}");
    let made = dir.path().join("of/its/own");
    ModelCache::open(&made).unwrap();
    assert_eq!(fs::metadata(&made).unwrap().mode() & 0o777, 0o700);
}

#[test]
fn what_a_killed_process_left_is_swept_away() {
    let case = Case::new();
    let cache = case.cache();
    let [left, held] = ["left.part", "held.part"].map(|name| case.dir.path().join("cache").join(name));
    let [_, holder] = [&left, &held].map(|path| {
        let file = File::create(path).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(60)).unwrap();
        file
    });
    holder.lock().unwrap();
    case.load(Some(&cache));
    assert!(!left.exists() && held.exists(), "a process that lives holds its own");
}
