//! The one error of the wire: a code and a sentence, and how they travel in a gRPC status.

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
}

impl Refusal {
    /// A refusal of the given kind.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
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
        ErrorCode::StorageFull => Code::ResourceExhausted,
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
        Code::Ok
        | Code::Unknown
        | Code::NotFound
        | Code::AlreadyExists
        | Code::ResourceExhausted
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

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let code = grpc_code(refusal.code);
        let message = refusal.message.clone();
        let detail =
            prost_types::Any { type_url: DETAIL_TYPE.to_owned(), value: ErrorDetail::from(refusal).encode_to_vec() };
        let rich = RichStatus { code: code as i32, message: message.clone(), details: vec![detail] };
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
        let any = rich.details.into_iter().find(|any| any.type_url == DETAIL_TYPE).ok_or(NoDetail)?;
        ErrorDetail::decode(any.value.as_slice()).map(Refusal::from).map_err(|_| NoDetail)
    }
}

impl From<ErrorDetail> for Refusal {
    /// A code of a newer version reads as an internal error.
    fn from(detail: ErrorDetail) -> Self {
        let code = match ErrorCode::try_from(detail.code) {
            Ok(ErrorCode::Unspecified) | Err(_) => ErrorCode::Internal,
            Ok(code) => code,
        };
        Self { code, message: detail.message }
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
            let refusal = Refusal::new(code, "photo \"ü.png\" is 9 px; accepted are 16 to 8192");
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
        fn any_details_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let status = Status::with_details(Code::Internal, "x", bytes.into());
            let _ = Refusal::read(&status);
        }
    }
}
