//! Images: the catalog of what can be had, how it is fetched and verified, and the store that keeps it.
//!
//! How it keeps files (`files`, `record`, `verify`) is also how `kernels` does.
//!
//! May depend on: `boot`, `home` (the words that both have for what lies in it), `arch`, `vmm-disk`, `vmm-sys`. Prints
//! nothing; whoever pulls is told of the progress.

mod care;
mod catalog;
mod commit;
mod configuration;
mod customise;
mod digest;
mod downloads;
mod error;
pub(crate) mod files;
#[cfg(feature = "testing")]
pub mod fuzzing;
#[expect(clippy::module_inception, reason = "it is the image of an image store")]
mod image;
mod import;
mod index;
mod kernel_modules;
mod layers;
mod profile;
mod progress;
mod pull;
mod pull_log;
pub(crate) mod record;
mod reference;
mod root;
mod share;
mod source;
mod store;
#[cfg(test)]
mod testing;
mod transform;
pub(crate) mod verify;
mod version;
mod waiting;

pub use care::{CustomisationState, ImageDetails, LayerDetails, Origin, Removed, Sizes};
pub use commit::Commit;
pub use configuration::KernelFacts;
pub use customise::{Customisation, Customising};
pub use digest::{Digest, DigestError};
pub use error::ImageError;
pub use image::Image;
pub use import::{BaseFile, Import, Imported, SystemFound};
pub use index::Summary;
pub use kernel_modules::Extras;
pub use layers::{Layer, LayerId, LayerIdError, LayerStore, NewLayer};
pub use profile::{BootProfile, RootFileSystem};
pub use progress::{Progress, Stage, Step};
pub use pull::{Downloaded, PullMode, Pulled};
pub use reference::{ImageName, ImageRef, ImageRefError};
pub use store::{BootFiles, ImageStore};
#[cfg(test)]
pub(crate) use testing::image_upon;
pub use transform::Transform;
pub use verify::Thoroughness;
pub use version::{Compatibility, ImageVersion, ImageVersionError};
pub use vmm_disk::Format;
