//! The one error of the wire: a code and a sentence, and how they travel in a gRPC status.

use std::time::Duration;

use prost::Message;
use tonic::{Code, Status};

use crate::v1::{ErrorCode, ErrorDetail};

/// Why something was refused or failed. Keeps code and message over the wire.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// What kind of refusal it is.
    pub code: ErrorCode,
    /// Lower case, without a full stop; names the value, what would be accepted and what to do.
    pub message: String,
    /// When the same call may succeed, as the server guesses; `None`: it does not know, or waiting alone will not help.
    pub retry_after: Option<Duration>,
}

impl Refusal {
    /// A refusal of the given kind.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), retry_after: None }
    }

    /// The same, to be tried again after `delay`.
    #[must_use]
    pub fn retry_after(self, delay: Duration) -> Self {
        Self { retry_after: Some(delay), ..self }
    }

    /// A field is outside what is accepted.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::InvalidArgument, message)
    }

    /// A bug or an unexpected fault of ours.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::Internal, message)
    }

    /// What a status says: its `ErrorDetail` if it carries one, else the code that comes nearest.
    pub fn read(status: &Status) -> Self {
        Self::try_from(status).unwrap_or_else(|_| Self::new(error_code(status.code()), status.message()))
    }
}

/// The gRPC code of each error code.
fn grpc_code(code: ErrorCode) -> Code {
    match code {
        ErrorCode::Unspecified | ErrorCode::Internal | ErrorCode::WorkerLost => Code::Internal,
        ErrorCode::InvalidArgument
        | ErrorCode::NotAnImage
        | ErrorCode::ImageDamaged
        | ErrorCode::ImageTooLarge
        | ErrorCode::ImageAnimated
        | ErrorCode::NoPhotos
        | ErrorCode::ConsentMissing
        | ErrorCode::PromptWithoutSubject
        | ErrorCode::PromptTooLong
        | ErrorCode::InitEmpty => Code::InvalidArgument,
        ErrorCode::ModelUnavailable
        | ErrorCode::ModelMismatch
        | ErrorCode::JobFinished
        | ErrorCode::NoEmbedding
        | ErrorCode::VersionMismatch
        | ErrorCode::Diverged
        | ErrorCode::SubjectForgotten => Code::FailedPrecondition,
        ErrorCode::UnknownJob
        | ErrorCode::UnknownSubject
        | ErrorCode::UnknownObject
        | ErrorCode::UnknownWorker
        | ErrorCode::UnknownTenant
        | ErrorCode::UnknownKey => Code::NotFound,
        ErrorCode::Forbidden => Code::PermissionDenied,
        ErrorCode::IdempotencyConflict => Code::AlreadyExists,
        ErrorCode::StaleFence => Code::Aborted,
        ErrorCode::Unauthenticated => Code::Unauthenticated,
        ErrorCode::StorageFull | ErrorCode::QuotaExceeded | ErrorCode::Overloaded => Code::ResourceExhausted,
        ErrorCode::StorageUnavailable | ErrorCode::Unavailable | ErrorCode::PeerLost => Code::Unavailable,
        ErrorCode::ObjectCorrupt => Code::DataLoss,
    }
}

/// The nearest error code of a status that carries none: it comes from the transport or from another server.
fn error_code(code: Code) -> ErrorCode {
    match code {
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => ErrorCode::Unavailable,
        Code::Unauthenticated => ErrorCode::Unauthenticated,
        Code::PermissionDenied => ErrorCode::Forbidden,
        Code::InvalidArgument | Code::OutOfRange => ErrorCode::InvalidArgument,
        Code::Unimplemented => ErrorCode::VersionMismatch,
        Code::ResourceExhausted => ErrorCode::Overloaded,
        Code::Ok
        | Code::Unknown
        | Code::NotFound
        | Code::AlreadyExists
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::Internal
        | Code::DataLoss => ErrorCode::Internal,
    }
}

/// `google.rpc.Status`, which is what gRPC tools expect in a status' details.
#[derive(Clone, PartialEq, Message)]
struct RichStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<prost_types::Any>,
}

const DETAIL_TYPE: &str = "type.googleapis.com/likeness.v1.ErrorDetail";

/// `google.rpc.RetryInfo`: how long to wait before the same call is made again.
#[derive(Clone, PartialEq, Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<prost_types::Duration>,
}

const RETRY_TYPE: &str = "type.googleapis.com/google.rpc.RetryInfo";

fn any(type_url: &str, message: &impl Message) -> prost_types::Any {
    prost_types::Any { type_url: type_url.to_owned(), value: message.encode_to_vec() }
}

fn retry_info(delay: Duration) -> prost_types::Any {
    any(RETRY_TYPE, &RetryInfo { retry_delay: prost_types::Duration::try_from(delay).ok() })
}

fn retry_delay(details: &[prost_types::Any]) -> Option<Duration> {
    let any = details.iter().find(|any| any.type_url == RETRY_TYPE)?;
    RetryInfo::decode(any.value.as_slice()).ok()?.retry_delay?.try_into().ok()
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let code = grpc_code(refusal.code);
        let message = refusal.message.clone();
        let retry = refusal.retry_after.map(retry_info);
        let details = [any(DETAIL_TYPE, &ErrorDetail::from(refusal))].into_iter().chain(retry).collect();
        let rich = RichStatus { code: code as i32, message: message.clone(), details };
        Status::with_details(code, message, rich.encode_to_vec().into())
    }
}

/// A status that carries no `ErrorDetail`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the status carries no likeness.v1.ErrorDetail")]
pub struct NoDetail;

impl TryFrom<&Status> for Refusal {
    type Error = NoDetail;

    fn try_from(status: &Status) -> Result<Self, NoDetail> {
        let rich = RichStatus::decode(status.details()).map_err(|_| NoDetail)?;
        let any = rich.details.iter().find(|any| any.type_url == DETAIL_TYPE).ok_or(NoDetail)?;
        let detail = ErrorDetail::decode(any.value.as_slice()).map_err(|_| NoDetail)?;
        Ok(Self { retry_after: retry_delay(&rich.details), ..detail.into() })
    }
}

impl From<ErrorDetail> for Refusal {
    /// A code of a newer version reads as an internal error.
    fn from(detail: ErrorDetail) -> Self {
        let code = match ErrorCode::try_from(detail.code) {
            Ok(ErrorCode::Unspecified) | Err(_) => ErrorCode::Internal,
            Ok(code) => code,
        };
        Self::new(code, detail.message)
    }
}

impl From<Refusal> for ErrorDetail {
    fn from(refusal: Refusal) -> Self {
        Self { code: refusal.code as i32, message: refusal.message }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn code_and_message_survive_the_wire() {
        let codes = (1..=64).filter_map(|number| ErrorCode::try_from(number).ok());
        for code in codes {
            let refusal = Refusal::new(code, "photo \"ü.png\" is 9 px; accepted are 16 to 8192")
                .retry_after(Duration::from_millis(1500));
            let status = Status::from(refusal.clone());
            let headers = status.into_http::<()>().into_parts().0.headers;
            let received = Status::from_header_map(&headers).unwrap();
            assert_eq!(Refusal::try_from(&received), Ok(refusal.clone()));
            assert_eq!(received.message(), refusal.message);
        }
    }

    #[test]
    fn a_status_of_the_transport_is_read_as_well_as_it_can_be() {
        let status = Status::unavailable("connection refused");
        assert_eq!(Refusal::try_from(&status), Err(NoDetail));
        assert_eq!(Refusal::read(&status), Refusal::new(ErrorCode::Unavailable, "connection refused"));
    }

    proptest! {
        #[test]
        fn any_details_are_read_without_panic(bytes in proptest::collection::vec(proptest::arbitrary::any::<u8>(), 0..200)) {
            let status = Status::with_details(Code::Internal, "x", bytes.into());
            let _ = Refusal::read(&status);
        }
    }
}
