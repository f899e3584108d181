//! Assemble tasks: from photos and avatars in the bucket to a contact sheet.

use likeness_diffusion::RgbPixels;
use likeness_proto::{AssembleWork, CONTACT_SHEET_NAME, ErrorCode, Grant, ObjectRef, v1};
use likeness_telemetry::child;
use likeness_worker::{Done, Task, WorkError};
use tracing::{Instrument, info};

use crate::{
    failure::{failed, off_thread, refused},
    picture::{Origin, to_png},
    sampler::Sampler,
    sheet::Sheet,
};

impl Sampler {
    /// Makes a subject's contact sheet. Holds one full picture at a time.
    pub(crate) async fn assemble(&self, grant: &Grant, work: AssembleWork, task: &Task) -> Result<Done, WorkError> {
        let AssembleWork { photos, mut avatars } = work;
        avatars.sort_by_key(|avatar| avatar.index);
        let mut sheet = Sheet::new(photos.len(), avatars.len()).map_err(failed)?;
        let (photos_shown, avatars_shown) = sheet.shown();

        for photo in photos.into_iter().take(photos_shown) {
            let bytes = task.bucket().get(&photo.object).instrument(child!("pull")).await?;
            let add = move || {
                sheet.add_photo(&pixels(&photo.object, &bytes)?).map_err(failed)?;
                Ok(sheet)
            };
            sheet = off_thread(task, add).await?;
        }
        for avatar in avatars.into_iter().take(avatars_shown) {
            let bytes = task.bucket().get(&avatar.object).instrument(child!("pull")).await?;
            let add = move || {
                let picture = pixels(&avatar.object, &bytes)?;
                sheet.add_avatar(&picture, &avatar.prompt, avatar.seed).map_err(failed)?;
                Ok(sheet)
            };
            sheet = off_thread(task, add).await?;
        }

        let provenance = self.provenance(grant, Origin::Composite);
        let paint = off_thread(task, move || to_png(&sheet.paint(), &provenance).map_err(failed));
        let file = paint.instrument(child!("paint")).await?;
        let contact_sheet = task.bucket().put(CONTACT_SHEET_NAME, file).instrument(child!("write")).await?;
        info!(job = %grant.job, task = %grant.lease.task, photos_shown, avatars_shown, "contact sheet made");
        let result = v1::AssembleResult { contact_sheet: Some(contact_sheet.into()) };
        Ok(Done { result: v1::complete_request::Result::Assemble(result), warnings: Vec::new() })
    }
}

/// What a stored picture shows.
fn pixels(object: &ObjectRef, file: &[u8]) -> Result<RgbPixels, WorkError> {
    let decoded = image::load_from_memory_with_format(file, image::ImageFormat::Png).map_err(|error| {
        refused(ErrorCode::ObjectCorrupt, format!("picture {} cannot be read: {error}", object.key))
    })?;
    let picture = decoded.into_rgb8();
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    Ok(RgbPixels { width, height, bytes: picture.into_raw() })
}
