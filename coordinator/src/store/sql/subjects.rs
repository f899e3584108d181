//! Subjects, uploads and the objects that people may download.

use likeness_proto::v1;
use likeness_proto::{
    Consent, ErrorCode, ObjectKey, ObjectRef, Photo, Refusal, Sha256, SubjectName, TenantId, kind_of,
};
use prost::Message;
use uuid::Uuid;

use super::rows::{known, parsed, record};
use super::{Connection, Result, Writing, audit, dialect, erasures, tenants};
use crate::audit::{Action, Actor, Note};
use crate::clock::Timestamp;
use crate::store::{Reading, UPLOAD_LIMIT, Upload, refusals};

pub(super) async fn begin_upload(w: &mut Writing, tenant: &TenantId, subject: &SubjectName) -> Result<Upload> {
    dialect::lock_subjects(&mut w.tx, &[(tenant.clone(), subject.clone())]).await?;
    if erasures::is_locked(&mut w.tx, tenant, subject).await? {
        return Err(refusals::being_erased(subject).into());
    }
    let upload = Upload { tenant: tenant.clone(), subject: subject.clone(), id: Uuid::new_v4().to_string() };
    sqlx::query("INSERT INTO uploads (tenant, subject, id, deadline) VALUES ($1, $2, $3, $4)")
        .bind(tenant.as_str())
        .bind(subject.as_str())
        .bind(&upload.id)
        .bind((w.now + UPLOAD_LIMIT).millis())
        .execute(&mut *w.tx)
        .await?;
    Ok(upload)
}

pub(super) async fn commit_upload(
    w: &mut Writing,
    upload: &Upload,
    consent: &Consent,
    photos: &[Photo],
    by: &Actor,
) -> Result<v1::Subject> {
    dialect::lock_subjects(&mut w.tx, &[(upload.tenant.clone(), upload.subject.clone())]).await?;
    if !end_upload(w, upload).await? {
        return Err(refusals::forgotten(&upload.subject).into());
    }
    dialect::lock_subject_record(&mut w.tx, &upload.tenant, &upload.subject).await?;
    let before = find(&mut w.tx, &upload.tenant, &upload.subject).await?;
    for photo in photos {
        commit_object(&mut w.tx, &upload.tenant, &upload.subject, &photo.object).await?;
    }
    let subject = v1::Subject {
        name: upload.subject.to_string(),
        photos: photos.iter().cloned().map(v1::Photo::from).collect(),
        consent: Some(consent.clone().into()),
        stored_at: Some(w.now.into()),
        embedding: before.and_then(|subject| subject.embedding),
    };
    save(&mut w.tx, &upload.tenant, &subject).await?;
    tenants::check_stored(w, &upload.tenant).await?;
    let target = w.policy.blind.subject(&upload.tenant, &upload.subject);
    let note = Note { by, tenant: Some(&upload.tenant), action: Action::SubjectPut, target };
    audit::append(w, note).await?;
    Ok(subject)
}

pub(super) async fn abandon_upload(w: &mut Writing, upload: &Upload) -> Result<()> {
    // When the upload is gone already, a forgetting or the deadline owes the sweep.
    if end_upload(w, upload).await? {
        erasures::owe(w, &upload.tenant, &upload.subject, w.now, None).await?;
    }
    Ok(())
}

/// Whether the upload still went on.
async fn end_upload(w: &mut Writing, upload: &Upload) -> Result<bool> {
    let ended = sqlx::query("DELETE FROM uploads WHERE tenant = $1 AND subject = $2 AND id = $3")
        .bind(upload.tenant.as_str())
        .bind(upload.subject.as_str())
        .bind(&upload.id)
        .execute(&mut *w.tx)
        .await?;
    Ok(ended.rows_affected() > 0)
}

pub(super) async fn find(tx: &mut Connection, tenant: &TenantId, name: &SubjectName) -> Result<Option<v1::Subject>> {
    let stored: Option<Vec<u8>> = sqlx::query_scalar("SELECT record FROM subjects WHERE tenant = $1 AND name = $2")
        .bind(tenant.as_str())
        .bind(name.as_str())
        .fetch_optional(tx)
        .await?;
    stored.map(|bytes| record(&bytes)).transpose()
}

pub(super) async fn get(tx: &mut Connection, tenant: &TenantId, name: &SubjectName) -> Result<v1::Subject> {
    find(tx, tenant, name).await?.ok_or_else(|| refusals::unknown_subject(name).into())
}

/// When its photos came last.
pub(super) fn stored_at(subject: &v1::Subject) -> Timestamp {
    let at = subject.stored_at.unwrap_or_default();
    Timestamp::from_millis(at.seconds * 1000 + i64::from(at.nanos) / 1_000_000)
}

/// Subjects of all tenants after one of them, in order, `limit` at most, and when they were stored.
pub(super) async fn after(
    tx: &mut Connection,
    last: Option<&(TenantId, SubjectName)>,
    limit: u32,
) -> Result<Vec<(TenantId, SubjectName, Timestamp)>> {
    let (tenant, name) = last.map_or(("", ""), |(tenant, name)| (tenant.as_str(), name.as_str()));
    let rows: Vec<(String, String, Vec<u8>)> = sqlx::query_as(
        "SELECT tenant, name, record FROM subjects WHERE (tenant, name) > ($1, $2) ORDER BY tenant, name LIMIT $3",
    )
    .bind(tenant)
    .bind(name)
    .bind(i64::from(limit))
    .fetch_all(tx)
    .await?;
    let stored = |(tenant, name, subject): (String, String, Vec<u8>)| {
        Ok((parsed("subjects.tenant", &tenant)?, parsed("subjects.name", &name)?, stored_at(&record(&subject)?)))
    };
    rows.into_iter().map(stored).collect()
}

pub(super) async fn list(tx: &mut Connection, tenant: &TenantId) -> Result<Vec<v1::Subject>> {
    let stored: Vec<Vec<u8>> = sqlx::query_scalar("SELECT record FROM subjects WHERE tenant = $1 ORDER BY name")
        .bind(tenant.as_str())
        .fetch_all(tx)
        .await?;
    stored.iter().map(|bytes| record(bytes)).collect()
}

pub(super) async fn save(tx: &mut Connection, tenant: &TenantId, subject: &v1::Subject) -> Result<()> {
    sqlx::query("INSERT INTO subjects (tenant, name, record) VALUES ($1, $2, $3) ON CONFLICT (tenant, name) DO UPDATE SET record = excluded.record")
        .bind(tenant.as_str())
        .bind(&subject.name)
        .bind(subject.encode_to_vec())
        .execute(tx)
        .await?;
    Ok(())
}

/// Makes an object downloadable.
pub(super) async fn commit_object(
    tx: &mut Connection,
    tenant: &TenantId,
    subject: &SubjectName,
    object: &ObjectRef,
) -> Result<()> {
    sqlx::query(
        "INSERT INTO objects (tenant, key, subject, sha256, size) VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING",
    )
    .bind(tenant.as_str())
    .bind(object.key.as_str())
    .bind(subject.as_str())
    .bind(object.sha256.as_bytes().as_slice())
    .bind(object.size as i64)
    .execute(tx)
    .await?;
    Ok(())
}

pub(super) async fn object(tx: &mut Connection, tenant: &TenantId, key: &ObjectKey) -> Result<ObjectRef> {
    let row: Option<(Vec<u8>, i64)> = sqlx::query_as("SELECT sha256, size FROM objects WHERE tenant = $1 AND key = $2")
        .bind(tenant.as_str())
        .bind(key.as_str())
        .fetch_optional(tx)
        .await?;
    let Some((sha256, size)) = row else {
        return Err(Refusal::new(ErrorCode::UnknownObject, format!("there is no object {key}")).into());
    };
    let sha256 = Sha256::from_bytes(known("objects.sha256", sha256.try_into().ok())?);
    Ok(ObjectRef { key: key.clone(), sha256, size: size as u64 })
}

/// An object that somebody is about to read.
pub(super) async fn open_object(
    w: &mut Writing,
    tenant: &TenantId,
    key: &ObjectKey,
    reading: Reading,
    by: &Actor,
) -> Result<ObjectRef> {
    let object = object(&mut w.tx, tenant, key).await?;
    let action = match reading {
        Reading::Here => Action::Downloaded(kind_of(key)),
        Reading::ByLink => Action::LinkSigned(kind_of(key)),
    };
    let target = w.policy.blind.object(key);
    audit::append(w, Note { by, tenant: Some(tenant), action, target }).await?;
    Ok(object)
}
