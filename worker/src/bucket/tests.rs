use std::{fs, io::Write};

use object_store::local::LocalFileSystem;

use super::*;

const PREFIX: &str = "v1/acme/anna/train/0190f5fe-7c00-7000-8000-000000000001/1/";

fn bucket(folder: &tempfile::TempDir) -> Bucket {
    let store = LocalFileSystem::new_with_prefix(folder.path()).unwrap();
    Bucket::new(Arc::new(store), PREFIX.parse().unwrap())
}

/// Names of all files below the lease's prefix.
fn files(folder: &tempfile::TempDir) -> Vec<String> {
    let entries = fs::read_dir(folder.path().join(PREFIX)).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[tokio::test]
async fn what_is_put_lies_under_the_lease_and_is_got_back() {
    let folder = tempfile::tempdir().unwrap();
    let object = bucket(&folder).put("embedding.safetensors", b"rows".to_vec()).await.unwrap();
    assert_eq!(object.key.as_str(), format!("{PREFIX}embedding.safetensors"));
    assert_eq!(bucket(&folder).get(&object).await.unwrap(), b"rows");
    assert_eq!(files(&folder), ["embedding.safetensors"], "nothing staged is left");
}

#[tokio::test]
async fn what_a_lease_has_published_stays_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let first = bucket(&folder).put("a.bin", b"rows".to_vec()).await.unwrap();
    assert_eq!(bucket(&folder).put("a.bin", b"rows".to_vec()).await.unwrap(), first, "published again, the same");
    let error = bucket(&folder).put("a.bin", b"other".to_vec()).await.unwrap_err();
    assert!(matches!(error, BucketError::Taken { .. }) && error.to_string().contains(first.key.as_str()), "{error}");
    assert_eq!(bucket(&folder).get(&first).await.unwrap(), b"rows");
    assert_eq!(files(&folder), ["a.bin"], "nothing staged is left");
}

#[tokio::test]
async fn a_large_object_goes_in_parts_and_is_published_once_too() {
    let folder = tempfile::tempdir().unwrap();
    let large: Vec<u8> = (0..WHOLE + 5).map(|index| (index % 251) as u8).collect();
    let object = bucket(&folder).put("large.bin", large.clone()).await.unwrap();
    assert!(bucket(&folder).get(&object).await.unwrap() == large);
    bucket(&folder).put("large.bin", large.clone()).await.unwrap();
    let other = bucket(&folder).put("large.bin", vec![0; WHOLE + 5]).await.unwrap_err();
    assert!(matches!(other, BucketError::Taken { .. }), "{other}");
    assert!(bucket(&folder).get(&object).await.unwrap() == large);
}

#[tokio::test]
async fn a_changed_object_is_corrupt_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let object = bucket(&folder).put("a.bin", b"rows".to_vec()).await.unwrap();
    for (changed, why) in [(&b"ROWS"[..], "sha256"), (b"row", "length"), (b"rowss", "length"), (b"", "length")] {
        fs::write(folder.path().join(object.key.as_str()), changed).unwrap();
        let error = bucket(&folder).get(&object).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::ObjectCorrupt);
        let message = error.to_string();
        assert!(message.contains(object.key.as_str()) && message.contains(why), "{message}");
        assert!(matches!(error.into(), WorkError::Failed { retry: false, .. }));
    }
}

#[tokio::test]
async fn a_missing_object_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let object = ObjectRef::of("v1/acme/anna/photos/1.png".parse().unwrap(), b"photo");
    let error = bucket(&folder).get(&object).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::UnknownObject);
    assert!(error.to_string().contains("v1/acme/anna/photos/1.png"));
}

#[tokio::test]
async fn nothing_is_written_outside_the_prefix() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["", "..", "../a.png", "/a.png", "b/a.png", ".a.png", "a#1"] {
        assert!(matches!(bucket(&folder).put(name, vec![1]).await, Err(BucketError::Name(_))), "{name}");
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_write_that_fails_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let in_the_way = folder.path().join(PREFIX).join("a.png");
    fs::create_dir_all(in_the_way.join("x")).unwrap();
    let error = bucket(&folder).put("a.png", vec![1; 1000]).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::StorageUnavailable);
    assert_eq!(files(&folder), ["a.png"], "only what was there before");
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_is_called_full() {
    let mut full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let no_space = full.write_all(b"rows").unwrap_err();
    let error = object_store::Error::Generic { store: "local", source: Box::new(no_space) };
    let key: ObjectKey = format!("{PREFIX}a.png").parse().unwrap();
    let error = BucketError::of(&key, error);
    assert_eq!(error.code(), ErrorCode::StorageFull);
    assert!(error.to_string().contains(key.as_str()));
    assert!(matches!(error.into(), WorkError::Failed { retry: true, .. }));
}
