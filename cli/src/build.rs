//! What this program was built from. Equal sources and equal variables give equal stamps: nothing is looked up while building, the variables
//! say it, as `deploy/images/build.sh` sets them.

use serde::Serialize;

/// Of which sources, when, and for what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Build {
    /// The release.
    pub version: &'static str,
    /// The commit, from `LIKENESS_COMMIT`; none: nobody said.
    pub commit: Option<&'static str>,
    /// Whether the sources differ from that commit, as `LIKENESS_DIRTY` says; none: nobody said.
    pub dirty: Option<bool>,
    /// The sources' time, seconds since 1970, from `LIKENESS_SOURCE_DATE` (`build.sh` takes it from `SOURCE_DATE_EPOCH`); none: nobody said.
    pub source_date_epoch: Option<u64>,
    /// What it runs on, as `x86_64-linux`.
    pub target: String,
    /// Features of Cargo that it was built with.
    pub features: Vec<&'static str>,
    /// What it computes with on GPUs; none: it cannot.
    pub cuda: Option<Cuda>,
    /// Version of the protocol between workers and coordinator.
    pub protocol: u32,
    /// Version of how specs are resolved.
    pub spec: u32,
    /// Base models that it takes.
    pub model_formats: ModelFormats,
}

/// What the GPU code was built for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cuda {
    /// The CUDA release, as `13.0`, from `CUDARC_CUDA_VERSION`; none: as the compiler found it.
    pub version: Option<String>,
    /// Compute capability times ten, as `90`, from `CUDA_COMPUTE_CAP`; none: that of the GPU of the machine it was built on.
    pub compute_capability: Option<&'static str>,
}

/// Base models that are taken, see README.md.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ModelFormats {
    /// How a model's directory is laid out.
    pub layout: &'static str,
    /// Kinds of models.
    pub families: [&'static str; 2],
    /// How weights are stored.
    pub weights: [&'static str; 1],
    /// What in.
    pub dtypes: [&'static str; 3],
}

impl Build {
    /// Of the program that runs.
    #[must_use]
    pub fn of_this_program() -> Self {
        let cuda = Cuda {
            version: option_env!("CUDARC_CUDA_VERSION").map(release),
            compute_capability: option_env!("CUDA_COMPUTE_CAP"),
        };
        Self {
            version: env!("CARGO_PKG_VERSION"),
            commit: said(option_env!("LIKENESS_COMMIT")),
            dirty: said(option_env!("LIKENESS_DIRTY")).map(|said| said == "true"),
            source_date_epoch: said(option_env!("LIKENESS_SOURCE_DATE")).and_then(|said| said.parse().ok()),
            target: format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS),
            features: features(),
            cuda: cfg!(feature = "cuda").then_some(cuda),
            protocol: likeness_proto::PROTOCOL_VERSION,
            spec: likeness_proto::SPEC_VERSION,
            model_formats: ModelFormats {
                layout: "diffusers",
                families: ["stable-diffusion-1", "stable-diffusion-2"],
                weights: ["safetensors"],
                dtypes: ["F32", "F16", "BF16"],
            },
        }
    }
}

/// The features of Cargo that this program was built with.
#[must_use]
pub fn features() -> Vec<&'static str> {
    let known =
        [("cuda", cfg!(feature = "cuda")), ("cudnn", cfg!(feature = "cudnn")), ("nccl", cfg!(feature = "nccl"))];
    known.into_iter().filter(|(_, built)| *built).map(|(name, _)| name).collect()
}

/// An argument of an image's build that nobody gave is empty.
fn said(variable: Option<&'static str>) -> Option<&'static str> {
    variable.filter(|said| !said.is_empty())
}

/// `13000` is 13.0, `12080` is 12.8.
fn release(number: &str) -> String {
    number.parse::<u32>().map_or_else(|_| number.to_owned(), |n| format!("{}.{}", n / 1000, n % 1000 / 10))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_said_is_not_told() {
        assert_eq!((said(None), said(Some("")), said(Some("0d62500"))), (None, None, Some("0d62500")));
    }

    #[test]
    fn a_release_of_cuda_is_written_as_usual() {
        assert_eq!((release("13000"), release("12080"), release("x")), ("13.0".into(), "12.8".into(), "x".into()));
    }
}
