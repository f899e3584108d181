//! API keys.

use std::time::Duration;

use likeness_proto::{ErrorCode, Refusal, Role, TenantId};
use sqlx::Row as _;

use super::rows::{known, parsed};
use super::{Connection, Result, Row, Writing, audit, tenants};
use crate::audit::{Action, Actor, Note};
use crate::clock::Timestamp;
use crate::store::{Key, NewKey, StoreError};

async fn note(w: &mut Writing, key: &Key, action: Action, by: &Actor) -> Result<()> {
    let target = w.policy.blind.key(&key.prefix);
    audit::append(w, Note { by, tenant: key.tenant.as_ref(), action, target }).await.map(drop)
}

pub(super) async fn create_key(w: &mut Writing, new: &NewKey, by: &Actor) -> Result<Key> {
    if let Some(id) = &new.tenant {
        tenants::get(&mut w.tx, id).await?;
    }
    let key = Key {
        prefix: new.prefix.clone(),
        tenant: new.tenant.clone(),
        role: new.role,
        hash: new.hash,
        created_at: w.now,
        expires_at: new.life.map(|life| w.now + life),
        revoked_at: None,
    };
    insert(w, &key).await?;
    note(w, &key, Action::KeyCreated, by).await?;
    Ok(key)
}

async fn insert(w: &mut Writing, key: &Key) -> Result<()> {
    sqlx::query(
        "INSERT INTO api_keys (prefix, tenant, role, hash, created_at, expires_at) VALUES ($1, $2, $3, $4, $5, $6)",
    )
    .bind(&key.prefix)
    .bind(key.tenant.as_ref().map(|tenant| tenant.as_str()))
    .bind(key.role.encode())
    .bind(key.hash.as_slice())
    .bind(key.created_at.millis())
    .bind(key.expires_at.map(Timestamp::millis))
    .execute(&mut *w.tx)
    .await?;
    Ok(())
}

fn decode(row: &Row) -> Result<Key> {
    let tenant: Option<String> = row.try_get("tenant")?;
    let hash: Vec<u8> = row.try_get("hash")?;
    let moment = |at: Option<i64>| at.map(Timestamp::from_millis);
    Ok(Key {
        prefix: row.try_get("prefix")?,
        tenant: tenant.map(|tenant| parsed("api_keys.tenant", &tenant)).transpose()?,
        role: Role::decode(row.try_get("role")?).map_err(|error| StoreError::Record(error.message))?,
        hash: known("api_keys.hash", hash.try_into().ok())?,
        created_at: Timestamp::from_millis(row.try_get("created_at")?),
        expires_at: moment(row.try_get("expires_at")?),
        revoked_at: moment(row.try_get("revoked_at")?),
    })
}

/// All keys, or those of a tenant, by tenant and age.
pub(super) async fn list(tx: &mut Connection, tenant: Option<&TenantId>) -> Result<Vec<Key>> {
    let rows = sqlx::query(
        "SELECT prefix, tenant, role, hash, created_at, expires_at, revoked_at FROM api_keys
         WHERE $1 IS NULL OR tenant = $1 ORDER BY tenant, created_at, prefix",
    )
    .bind(tenant.map(|tenant| tenant.as_str()))
    .fetch_all(tx)
    .await?;
    rows.iter().map(decode).collect()
}

/// A key that is neither revoked nor expired at `now`.
pub(super) async fn live(tx: &mut Connection, prefix: &str, now: Timestamp) -> Result<Option<Key>> {
    let row = sqlx::query(
        "SELECT prefix, tenant, role, hash, created_at, expires_at, revoked_at FROM api_keys
         WHERE prefix = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > $2)",
    )
    .bind(prefix)
    .bind(now.millis())
    .fetch_optional(tx)
    .await?;
    row.as_ref().map(decode).transpose()
}

/// Gives a key a successor; it opens what it does for no longer than `overlap`.
pub(super) async fn rotate(
    w: &mut Writing,
    old: &str,
    prefix: &str,
    hash: [u8; 32],
    overlap: Duration,
    by: &Actor,
) -> Result<Key> {
    let row = sqlx::query(
        "UPDATE api_keys SET expires_at = CASE WHEN expires_at IS NULL OR expires_at > $2 THEN $2 ELSE expires_at END
         WHERE prefix = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > $3)
         RETURNING prefix, tenant, role, hash, created_at, expires_at, revoked_at",
    )
    .bind(old)
    .bind((w.now + overlap).millis())
    .bind(w.now.millis())
    .fetch_optional(&mut *w.tx)
    .await?;
    let old = decode(&row.ok_or_else(|| unknown(old))?)?;
    let key = Key { prefix: prefix.to_owned(), hash, created_at: w.now, expires_at: None, ..old };
    insert(w, &key).await?;
    note(w, &key, Action::KeyRotated, by).await?;
    Ok(key)
}

pub(super) async fn revoke(w: &mut Writing, prefix: &str, by: &Actor) -> Result<Key> {
    let row = sqlx::query(
        "UPDATE api_keys SET revoked_at = coalesce(revoked_at, $2) WHERE prefix = $1
         RETURNING prefix, tenant, role, hash, created_at, expires_at, revoked_at",
    )
    .bind(prefix)
    .bind(w.now.millis())
    .fetch_optional(&mut *w.tx)
    .await?;
    let key = decode(&row.ok_or_else(|| unknown(prefix))?)?;
    // One that was ended before is not ended again.
    if key.revoked_at == Some(w.now) {
        note(w, &key, Action::KeyRevoked, by).await?;
    }
    Ok(key)
}

fn unknown(prefix: &str) -> Refusal {
    let message = format!("there is no live key {prefix:?}; `admin key list` shows those there are");
    Refusal::new(ErrorCode::UnknownKey, message)
}
