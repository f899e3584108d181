//! States of subjects and jobs, and how a job's follows from its subjects'.

use likeness_proto::v1;

macro_rules! wire_state {
    ($(#[$doc:meta])* $name:ident { $($value:ident),+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub(crate) enum $name { $($value),+ }

        impl $name {
            /// The wire's number, which is the store's too.
            pub(crate) fn encode(self) -> i32 {
                match self { $(Self::$value => v1::$name::$value as i32),+ }
            }

            /// Reads what [`Self::encode`] wrote.
            pub(crate) fn decode(number: i32) -> Option<Self> {
                match v1::$name::try_from(number) {
                    $(Ok(v1::$name::$value) => Some(Self::$value),)+
                    Ok(v1::$name::Unspecified) | Err(_) => None,
                }
            }
        }
    };
}

wire_state! {
    /// Where a subject stands in a job; see the wire for what each means.
    SubjectState { Queued, Training, Rendering, Assembling, Succeeded, Failed, Cancelled }
}

wire_state! {
    /// Where a job stands.
    JobState { Queued, Running, Succeeded, PartlyFailed, Failed, Cancelled }
}

impl SubjectState {
    /// Whether nothing more will happen.
    pub(crate) fn ended(self) -> bool {
        match self {
            Self::Queued | Self::Training | Self::Rendering | Self::Assembling => false,
            Self::Succeeded | Self::Failed | Self::Cancelled => true,
        }
    }
}

impl JobState {
    /// Whether nothing more will happen.
    pub(crate) fn ended(self) -> bool {
        match self {
            Self::Queued | Self::Running => false,
            Self::Succeeded | Self::PartlyFailed | Self::Failed | Self::Cancelled => true,
        }
    }

    /// A job's state, given those of all its subjects.
    pub(crate) fn of(subjects: &[SubjectState]) -> Self {
        let any = |state| subjects.contains(&state);
        let all = |state| subjects.iter().all(|subject| *subject == state);
        if all(SubjectState::Queued) {
            Self::Queued
        } else if !subjects.iter().all(|subject| subject.ended()) {
            Self::Running
        } else if any(SubjectState::Cancelled) {
            Self::Cancelled
        } else if all(SubjectState::Succeeded) {
            Self::Succeeded
        } else if any(SubjectState::Succeeded) {
            Self::PartlyFailed
        } else {
            Self::Failed
        }
    }
}
