//! Enums of the wire without their unspecified value, and with names for people and stores.

use std::{fmt, str::FromStr};

use crate::{Refusal, v1};

/// A name that none of an enum's values has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{value:?} is no {kind}; accepted are {accepted}")]
pub struct UnknownName {
    kind: &'static str,
    value: String,
    accepted: String,
}

macro_rules! wire_enum {
    ($(#[$doc:meta])* $name:ident, $kind:literal { $($(#[$note:meta])* $value:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$note])* $value,)+ }

        impl $name {
            /// Every value.
            pub const ALL: &[Self] = &[$(Self::$value),+];

            /// The value's name, as people write it and stores keep it.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$value => $text,)+ }
            }

            /// Decodes the wire's number.
            ///
            /// # Errors
            /// When it is unspecified or unknown.
            pub fn decode(number: i32) -> Result<Self, Refusal> {
                match v1::$name::try_from(number) {
                    $(Ok(v1::$name::$value) => Ok(Self::$value),)+
                    Ok(v1::$name::Unspecified) | Err(_) => {
                        let accepted = Self::ALL.iter().map(|value| value.as_str()).collect::<Vec<_>>().join(", ");
                        Err(Refusal::invalid(format!("{} {number} is unknown; accepted are {accepted}", $kind)))
                    }
                }
            }

            /// The wire's number.
            pub fn encode(self) -> i32 {
                v1::$name::from(self) as i32
            }
        }

        impl From<$name> for v1::$name {
            fn from(value: $name) -> Self {
                match value { $($name::$value => Self::$value,)+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = UnknownName;

            fn from_str(text: &str) -> Result<Self, UnknownName> {
                Self::ALL.iter().copied().find(|value| value.as_str() == text).ok_or_else(|| UnknownName {
                    kind: $kind,
                    value: text.to_owned(),
                    accepted: Self::ALL.iter().map(|value| value.as_str()).collect::<Vec<_>>().join(", "),
                })
            }
        }
    };
}

wire_enum! {
    /// What a credential may be used for.
    Role, "role" {
        /// Looks at what a tenant has, and downloads it.
        Viewer = "viewer",
        /// A viewer who may also put, submit, cancel and forget.
        Member = "member",
        /// A trainer or sampler.
        Worker = "worker",
        /// Makes tenants and keys.
        Admin = "admin",
    }
}

wire_enum! {
    /// What kind of work a task is.
    TaskKind, "task kind" {
        /// Learn a subject's embedding.
        Train = "train",
        /// Draw some avatars of one subject.
        Render = "render",
        /// Make a subject's contact sheet.
        Assemble = "assemble",
        /// Draw a picture with the unfinished vectors of a training.
        Preview = "preview",
    }
}
wire_enum! {
    /// In which capacity somebody attests consent.
    Capacity, "capacity" {
        /// The subject in person.
        Self_ = "self",
        /// A parent or guardian.
        Guardian = "guardian",
        /// Somebody to whom the subject gave a licence.
        Licensee = "licensee",
    }
}
wire_enum! {
    /// How the learned rows are parameterised.
    Parameterization, "parameterization" {
        /// A direction on the unit sphere at a fixed norm (arXiv 2512.13672).
        Direction = "direction",
        /// Free rows under AdamW, the norm held near the vocabulary's median.
        Adamw = "adamw",
    }
}
wire_enum! {
    /// Sentences to learn in.
    Templates, "set of templates" {
        /// "a photo of {subject}", …
        Object = "object",
        /// "a portrait of {subject}", …
        Portrait = "portrait",
    }
}
wire_enum! {
    /// The sampler that turns noise into latents.
    Scheduler, "scheduler" {
        /// Denoising diffusion implicit models (arXiv 2010.02502).
        Ddim = "ddim",
        /// Euler ancestral, with seeded noise.
        EulerAncestral = "euler_ancestral",
        /// UniPC multistep (arXiv 2302.04867).
        Unipc = "unipc",
    }
}
wire_enum! {
    /// Why training ended.
    StopReason, "stop reason" {
        /// The evaluation loss no longer falls.
        Converged = "converged",
        /// The steps that the spec allows are done.
        MaxSteps = "max_steps",
    }
}
wire_enum! {
    /// Whether a worker goes on with a task.
    Verdict, "verdict" {
        /// Go on.
        Continue = "continue",
        /// The lease is lost: stop, write nothing more.
        Lost = "lost",
        /// The job or subject was cancelled: stop, write nothing more.
        Cancelled = "cancelled",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_round_trip() {
        for &scheduler in Scheduler::ALL {
            assert_eq!(scheduler.to_string().parse::<Scheduler>().unwrap(), scheduler);
            assert_eq!(Scheduler::decode(scheduler.encode()).unwrap(), scheduler);
        }
    }

    #[test]
    fn unknown_values_name_the_known_ones() {
        let error = Scheduler::decode(0).unwrap_err();
        assert_eq!(error.message, "scheduler 0 is unknown; accepted are ddim, euler_ancestral, unipc");
        let error = "plms".parse::<Scheduler>().unwrap_err();
        assert_eq!(error.to_string(), "\"plms\" is no scheduler; accepted are ddim, euler_ancestral, unipc");
    }
}
