//! What a visitor gets instead of what they asked for.

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use likeness_proto::{ErrorCode, IdError, Refusal};

use super::views;
use crate::store::StoreError;

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Oops {
    /// Nobody is signed in.
    SignIn,
    /// There is no such page.
    NotFound,
    /// What was asked was refused.
    Refused(Refusal),
    /// Another site made the browser ask.
    Foreign,
}

impl From<Refusal> for Oops {
    fn from(refusal: Refusal) -> Self {
        match refusal.code {
            ErrorCode::Unauthenticated => Self::SignIn,
            ErrorCode::UnknownJob | ErrorCode::UnknownSubject | ErrorCode::UnknownObject => Self::NotFound,
            _other => Self::Refused(refusal),
        }
    }
}

impl From<StoreError> for Oops {
    fn from(error: StoreError) -> Self {
        Refusal::from(error).into()
    }
}

/// What is no name of anything names nothing.
impl From<IdError> for Oops {
    fn from(_: IdError) -> Self {
        Self::NotFound
    }
}

impl Oops {
    /// The same to a script or a picture's place, which no form helps.
    pub(super) fn bare(self) -> Response {
        match self {
            Self::SignIn => StatusCode::UNAUTHORIZED.into_response(),
            other => other.status().into_response(),
        }
    }

    fn status(&self) -> StatusCode {
        use ErrorCode::{Forbidden, InvalidArgument, Overloaded, StorageFull, StorageUnavailable, Unavailable};
        match self {
            Self::SignIn => StatusCode::SEE_OTHER,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::Foreign => StatusCode::FORBIDDEN,
            Self::Refused(refusal) => match refusal.code {
                Forbidden => StatusCode::FORBIDDEN,
                InvalidArgument => StatusCode::BAD_REQUEST,
                Overloaded | StorageFull | StorageUnavailable | Unavailable => StatusCode::SERVICE_UNAVAILABLE,
                _other => StatusCode::INTERNAL_SERVER_ERROR,
            },
        }
    }
}

impl IntoResponse for Oops {
    fn into_response(self) -> Response {
        let status = self.status();
        let (title, message) = match &self {
            Self::SignIn => return (status, [(header::LOCATION, "/sign-in")]).into_response(),
            Self::NotFound => ("There is nothing here", "No such page, or not one of yours."),
            Self::Foreign => ("Not from here", "Another site sent this form. Open the page itself and try again."),
            Self::Refused(refusal) if status == StatusCode::SERVICE_UNAVAILABLE => {
                ("Not now", refusal.message.as_str())
            }
            Self::Refused(refusal) => ("That did not work", refusal.message.as_str()),
        };
        (status, views::oops(title, message)).into_response()
    }
}
