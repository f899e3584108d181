//! Subjects, embeddings, warnings and receipts as data.

use super::{ObjectView, plain, time};
use likeness_proto::{Capacity, v1};
use serde::Serialize;

/// A subject.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SubjectView {
    /// Its name.
    pub name: String,
    /// When its photos were stored.
    pub stored_at: Option<String>,
    /// Who says that they may be used.
    pub consent: Option<ConsentView>,
    /// Its photos.
    pub photos: Vec<PhotoView>,
    /// The newest finished embedding.
    pub embedding: Option<EmbeddingView>,
}

/// A consent record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ConsentView {
    /// Who attests.
    pub attested_by: String,
    /// self, guardian or licensee.
    pub capacity: Option<&'static str>,
    /// What is attested.
    pub statement: String,
}

/// A stored photo.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PhotoView {
    /// The file's name as it was sent.
    pub file_name: String,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// What it shows; empty: not said.
    pub caption: String,
    /// Where it lies.
    pub object: Option<ObjectView>,
}

/// A finished embedding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EmbeddingView {
    /// The placeholder token in the file.
    pub token: String,
    /// Vectors in it.
    pub vectors: u32,
    /// Digest of the base model.
    pub base_model: String,
    /// The job that learned it.
    pub job_id: String,
    /// Where it lies.
    pub object: Option<ObjectView>,
}

/// Something worth knowing that stopped nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WarningView {
    /// Kind of warning.
    pub code: String,
    /// A sentence.
    pub message: String,
    /// The subject it is about; empty: the job.
    pub subject: String,
}

/// What was erased.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[allow(missing_docs)] // the fields of `ForgetReceipt`, which the proto documents
pub struct ReceiptView {
    pub receipt_id: String,
    pub subject: String,
    pub erased_at: Option<String>,
    pub photos: u32,
    pub checkpoints: u32,
    pub embeddings: u32,
    pub avatars: u32,
    pub others: u32,
    pub bytes: u64,
    pub jobs: Vec<String>,
    /// Keyed hashes of the keys of all objects erased, in hex.
    pub objects: Vec<String>,
    pub audit_sequence: u64,
    pub audit_hash: String,
}

impl From<&v1::Subject> for SubjectView {
    fn from(subject: &v1::Subject) -> Self {
        Self {
            name: subject.name.clone(),
            stored_at: time(subject.stored_at.as_ref()),
            consent: subject.consent.as_ref().map(Into::into),
            photos: subject.photos.iter().map(Into::into).collect(),
            embedding: subject.embedding.as_ref().map(Into::into),
        }
    }
}

impl From<&v1::Consent> for ConsentView {
    fn from(consent: &v1::Consent) -> Self {
        Self {
            attested_by: consent.attested_by.clone(),
            capacity: Capacity::decode(consent.capacity).ok().map(Capacity::as_str),
            statement: consent.statement.clone(),
        }
    }
}

impl From<&v1::Photo> for PhotoView {
    fn from(photo: &v1::Photo) -> Self {
        Self {
            file_name: photo.file_name.clone(),
            width: photo.width,
            height: photo.height,
            caption: photo.caption.clone(),
            object: photo.object.as_ref().map(Into::into),
        }
    }
}

impl From<&v1::Embedding> for EmbeddingView {
    fn from(embedding: &v1::Embedding) -> Self {
        Self {
            token: embedding.token.clone(),
            vectors: embedding.vectors,
            base_model: embedding.base_model.clone(),
            job_id: embedding.job_id.clone(),
            object: embedding.object.as_ref().map(Into::into),
        }
    }
}

impl From<&v1::Warning> for WarningView {
    fn from(warning: &v1::Warning) -> Self {
        Self {
            code: plain(warning.code().as_str_name(), "WARNING_CODE_"),
            message: warning.message.clone(),
            subject: warning.subject.clone(),
        }
    }
}

impl From<&v1::ForgetReceipt> for ReceiptView {
    fn from(receipt: &v1::ForgetReceipt) -> Self {
        Self {
            receipt_id: receipt.receipt_id.clone(),
            subject: receipt.subject.clone(),
            erased_at: time(receipt.erased_at.as_ref()),
            photos: receipt.photos,
            checkpoints: receipt.checkpoints,
            embeddings: receipt.embeddings,
            avatars: receipt.avatars,
            others: receipt.others,
            bytes: receipt.bytes,
            jobs: receipt.jobs.clone(),
            objects: receipt.objects.iter().map(hex::encode).collect(),
            audit_sequence: receipt.audit_sequence,
            audit_hash: hex::encode(&receipt.audit_hash),
        }
    }
}
