//! Which kernel boots what, where a start does not say: its user's choice for an image, or for all.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use snafu::{ResultExt, ensure};
use vmm_sys::FileLock;

use super::error::{ChoicesSnafu, KernelsError, OtherArchSnafu, Result, SystemSnafu};
use super::name::KernelName;
use super::store::KernelStore;
use crate::arch::Arch;
use crate::image::ImageName;
use crate::image::files;
use crate::image::record::{self, Refusal};

/// No name of a kernel begins with a dot.
const FILE: &str = ".choices.json";

/// A kernel to boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Choice {
    /// The image's own.
    OfImage,
    /// One of the store.
    Stored(KernelName),
}

impl TryFrom<String> for Choice {
    type Error = super::KernelsError;

    fn try_from(name: String) -> Result<Self> {
        if name == KernelName::OF_IMAGE { Ok(Self::OfImage) } else { name.parse().map(Self::Stored) }
    }
}

impl From<Choice> for String {
    fn from(choice: Choice) -> Self {
        match choice {
            Choice::OfImage => KernelName::OF_IMAGE.to_owned(),
            Choice::Stored(name) => name.into(),
        }
    }
}

/// Everything that was chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Choices {
    /// For all images that say nothing themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    all: Option<Choice>,
    /// For images of these names.
    #[serde(default)]
    images: BTreeMap<String, Choice>,
}

impl KernelStore {
    /// Lets a kernel boot the images of a name, or all for which nothing else is chosen. The image's own for all is what
    /// there is without a choice.
    pub fn choose(&self, choice: Choice, image: Option<&ImageName>) -> Result<()> {
        if let Choice::Stored(name) = &choice {
            let kernel = self.find(name)?;
            let (found, host) = (kernel.arch(), Arch::host());
            ensure!(Some(found) == host, OtherArchSnafu { name: name.as_str(), found });
        }
        files::make_folder(&self.folder)?;
        let lock = self.folder.join(".choices.lock");
        let _lock = FileLock::exclusive(&lock)
            .with_context(|_| SystemSnafu { what: format!("lock {}", lock.display()) })?;
        let mut choices = self.choices()?;
        match image {
            Some(image) => drop(choices.images.insert(image.as_str().to_owned(), choice)),
            None => choices.all = (choice != Choice::OfImage).then_some(choice),
        }
        let bytes = record::to_bytes(&choices).map_err(std::io::Error::from);
        let bytes = bytes.with_context(|_| SystemSnafu { what: "record the choice".to_owned() })?;
        let path = self.folder.join(FILE);
        let partial = files::partial_of(&path);
        files::remove_file(&partial)?;
        files::write_new(&partial, &bytes)?;
        Ok(files::rename(&partial, &path)?)
    }

    /// What is chosen for images of this name in particular, and what for all.
    pub fn chosen(&self, image: &ImageName) -> Result<[Option<Choice>; 2]> {
        // A file that cannot be read is no reason to boot nothing.
        let mut choices = self.choices().or_else(|error| match error {
            KernelsError::Choices { .. } => {
                tracing::warn!("{error}");
                Ok(Choices::default())
            }
            error => Err(error),
        })?;
        Ok([choices.images.remove(image.as_str()), choices.all])
    }

    /// The names of the images that a kernel was chosen for; `*` stands for all.
    pub fn chosen_for(&self, name: &KernelName) -> Result<Vec<String>> {
        let choices = self.choices()?;
        let is_it = |choice: &Choice| *choice == Choice::Stored(name.clone());
        let images = choices.images.into_iter().filter(|(_, choice)| is_it(choice)).map(|(image, _)| image);
        Ok(choices.all.iter().filter(|all| is_it(all)).map(|_| "*".to_owned()).chain(images).collect())
    }

    fn choices(&self) -> Result<Choices> {
        let path = self.folder.join(FILE);
        let Some(bytes) = files::read(&path, record::LARGEST)? else { return Ok(Choices::default()) };
        match record::from_bytes(&bytes) {
            Ok(choices) => Ok(choices),
            Err(Refusal::Newer) => ChoicesSnafu { path, what: "a newer vmm wrote it" }.fail(),
            Err(Refusal::Damaged(what)) => ChoicesSnafu { path, what }.fail(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::store::tests::{add, store};
    use super::*;

    #[test]
    fn a_choice_is_for_an_image_or_for_all_and_can_be_undone() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path());
        let fast = Choice::Stored(add(&store, "fast", b"kernel").name().clone());
        let (alpine, debian): (ImageName, ImageName) = ("alpine".parse().unwrap(), "debian".parse().unwrap());
        assert_eq!(store.chosen(&alpine).unwrap(), [None, None]);
        store.choose(fast.clone(), None).unwrap();
        store.choose(Choice::OfImage, Some(&debian)).unwrap();
        assert_eq!(store.chosen(&alpine).unwrap(), [None, Some(fast.clone())]);
        assert_eq!(store.chosen(&debian).unwrap(), [Some(Choice::OfImage), Some(fast.clone())]);
        store.choose(fast, Some(&alpine)).unwrap();
        assert_eq!(store.chosen_for(&"fast".parse().unwrap()).unwrap(), ["*", "alpine"]);
        store.choose(Choice::OfImage, None).unwrap();
        assert_eq!(store.chosen_for(&"fast".parse().unwrap()).unwrap(), ["alpine"]);
    }

    #[test]
    fn choices_that_cannot_be_read_are_not_written_over_and_keep_nothing_from_booting() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path());
        let fast = add(&store, "fast", b"kernel").name().clone();
        store.choose(Choice::Stored(fast.clone()), None).unwrap();
        std::fs::write(store.folder.join(FILE), "{").unwrap();
        assert_eq!(store.chosen(&"alpine".parse().unwrap()).unwrap(), [None, None]);
        assert!(store.chosen_for(&fast).is_err());
        assert!(store.choose(Choice::OfImage, None).is_err());
    }

    #[test]
    fn only_a_kernel_that_is_there_can_be_chosen() {
        let folder = tempfile::tempdir().unwrap();
        let error = store(folder.path()).choose(Choice::Stored("fast".parse().unwrap()), None).unwrap_err();
        assert_eq!(error.to_string(), "there is no kernel fast: none was built yet (vmm kernel build)");
    }
}
