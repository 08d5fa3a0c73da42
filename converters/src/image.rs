//! An IMAGE argument: a disk image file, or the name of an image in the store.

use std::path::Path;
use std::sync::Arc;

use mif_formats::Source;
use mif_formats::container::{self, Access, OpenOptions};
use mif_formats::mif::manifest::Row;

use crate::disk::decrypted;
use crate::disk::scan::{Scan, ScannedVolume};
use crate::error::{Error, Result};
use crate::store::{ImageName, Objects, Place, Store, StoredImage};
use crate::task::progress::Progress;
use crate::tree::content::Contents;
use crate::tree::mounts::Devices;
use crate::tree::path::VolumePath;
use crate::tree::view::Tree;
use crate::tree::{partial, rows};

/// An image that is open for reading.
pub struct OpenImage {
    /// The name by which the user called it.
    pub label: String,
    /// Its place.
    pub origin: Origin,
}

/// Returns true if an IMAGE argument is the path of a file: it contains a slash, or names an existing file with the
/// suffix of a container format.
#[must_use]
pub fn is_path(image: &str) -> bool {
    let path = Path::new(image);
    image.contains('/') || container::has_suffix(path) && (path.is_file() || container::is_bundle(path))
}

/// The place of an image.
pub enum Origin {
    /// A disk image file.
    File {
        /// The container.
        container: container::Disk,
    },
    /// An image of the store.
    Stored {
        /// The image.
        stored: Box<StoredImage>,
        /// The store's objects.
        objects: Arc<Objects>,
        /// Who may read the store.
        access: Access,
    },
}

impl OpenImage {
    /// Opens `image`: a file if it is a path (see [`is_path`]), or else the image of that name in the store at `store`.
    /// A file in the working directory never hides a stored image.
    pub fn open(
        image: &str,
        store: impl Place,
        options: &OpenOptions,
        progress: &dyn Progress,
    ) -> Result<Self> {
        let path = Path::new(image);
        if is_path(image) {
            let container = decrypted::open(path, options, progress).map_err(|error| {
                let is_missing = !path.exists();
                match image
                    .split_once(":/")
                    .filter(|(name, _)| is_missing && name.parse::<ImageName>().is_ok())
                {
                    Some((name, path)) => error.advise(format!(
                        "A path in an image is an argument of its own, such as `mif ls {name} /{path}`"
                    )),
                    None => error,
                }
            })?;
            return Ok(OpenImage { label: image.to_owned(), origin: Origin::File { container } });
        }
        // The user may have meant a file, which must be given as a path.
        let or_file = |error: Error| match path.exists() {
            true => error.advise(format!("To open the file of that name, write ./{image}")),
            false => error,
        };
        let name: ImageName = image.parse().map_err(|_| {
            or_file(Error::input(format!("{image}: neither the path of a file nor a valid image name")))
        })?;
        // A stored image may be called so, but it is more likely the name of a file.
        let is_file_name = container::has_suffix(path) && !path.exists();
        let storage = store.storage()?;
        let store = match Store::open(storage.clone(), progress) {
            Err(_) if is_file_name && !Store::exists(storage.clone())? => {
                return Err(Error::input(format!("{image}: no such file")));
            }
            Err(_) if !Store::exists(storage.clone())? => {
                let error = Error::input(format!("{image}: no store at {}", storage.place()));
                return Err(or_file(error.advise("Name the store with --store or MIF_STORE")));
            }
            store => store?,
        };
        match Self::stored(&store, &name) {
            Err(error) if is_file_name && store.versions(&name.name)?.is_empty() => {
                let place = store.storage().place();
                let missing =
                    Error::input(format!("{image}: no such file, and no such image in the store {place}"));
                Err(match error.advice() {
                    Some(advice) => missing.advise(advice),
                    None => missing,
                })
            }
            Err(error) if store.versions(&name.name)?.is_empty() => Err(or_file(error)),
            opened => opened?.decrypted(options),
        }
    }

    /// Opens the encrypted volumes of a stored image, if there are keys. Its files are then read from its disk.
    fn decrypted(self, options: &OpenOptions) -> Result<Self> {
        let Origin::Stored { stored, .. } = &self.origin else { return Ok(self) };
        if options.passphrases.is_empty() || stored.image.volumes.iter().all(|volume| volume.luks.is_none()) {
            return Ok(self);
        }
        let mut container = container::Disk {
            source: self.disk()?,
            format: "mif",
            details: Vec::new(),
            files: Vec::new(),
            own_files: 0,
            warnings: Vec::new(),
            decrypted: Vec::new(),
        };
        decrypted::decrypt(&mut container, &options.passphrases)
            .map_err(|error| error.within(&self.label))?;
        Ok(OpenImage { origin: Origin::File { container }, ..self })
    }

    /// Opens an image of a store.
    pub fn stored(store: &Store, name: &ImageName) -> Result<Self> {
        let stored = Box::new(store.image(name)?);
        let objects = Arc::new(store.objects_of(&stored)?);
        // The mode of the imported file is not recorded, so the store decides.
        let access = store.storage().access();
        Ok(OpenImage { label: stored.image.id(), origin: Origin::Stored { stored, objects, access } })
    }

    /// Returns the disk.
    pub fn disk(&self) -> Result<Arc<dyn Source>> {
        Ok(match &self.origin {
            Origin::File { container } => container.source.clone(),
            Origin::Stored { stored, objects, .. } => Arc::new(stored.disk(objects.clone())?),
        })
    }

    /// Returns all its files: from the filesystems of a disk image file, or from the manifest of a stored image.
    pub fn tree(&self) -> Result<Tree> {
        match &self.origin {
            Origin::Stored { stored, objects, .. } => {
                let devices = Devices { table: &stored.image.table, volumes: &stored.image.volumes };
                Ok(stored_tree(stored.manifest()?, objects, devices))
            }
            Origin::File { container } => tree_of_scan(&Arc::new(Scan::new(container.source.clone())?)),
        }
    }

    /// Returns a tree with all that these paths need to be resolved and, with `entries`, what is directly in the directories
    /// there. Of a large stored image it has little else.
    pub(crate) fn tree_around(&self, paths: &[VolumePath], entries: bool) -> Result<Tree> {
        if let Origin::Stored { stored, objects, .. } = &self.origin {
            let devices = Devices { table: &stored.image.table, volumes: &stored.image.volumes };
            let columns = stored.large_manifest();
            let rows = columns.and_then(|file| partial::rows_for(&file, objects, devices, paths, entries));
            if let Some(rows) = rows {
                return Ok(stored_tree(rows, objects, devices));
            }
        }
        self.tree()
    }

    /// Returns who may read the image besides its owner. Output made from it must not be readable by anyone else.
    #[must_use]
    pub fn access(&self) -> Access {
        match &self.origin {
            // Who may read the ciphertext need not have the key.
            Origin::File { container } if !container.decrypted.is_empty() => Access::Owner,
            Origin::File { container } => container.files.iter().fold(Access::All, |access, file| {
                // If it is unknown, only the owner may read the output.
                access.and(file.access().unwrap_or(Access::Owner))
            }),
            Origin::Stored { access, .. } => *access,
        }
    }
}

/// Returns the tree of rows with their content in a store, on a disk with these devices.
pub(crate) fn stored_tree(rows: Vec<Row>, objects: &Arc<Objects>, devices: Devices<'_>) -> Tree {
    let content = |row: &Row| row.object().map(|id| Contents::Stored { id, objects: objects.clone() });
    let contents = rows.iter().map(content).collect();
    Tree::new(rows, contents, Vec::new()).with_roots(devices)
}

/// Returns the tree of a disk's volumes.
pub(crate) fn tree_of_scan(scan: &Arc<Scan>) -> Result<Tree> {
    let mut complaints = scan.warnings.clone();
    let (mut all, mut all_contents) = (Vec::new(), Vec::new());
    for (number, volume) in scan.volumes.iter().enumerate() {
        let Some(listing) = volume.list(&mut complaints)? else { continue };
        let (rows, contents) = rows::of_listing(&volume.name, listing, |_, node, row| {
            let is_file = row.node.file_type == mif_formats::fs::FileType::File;
            is_file.then(|| Contents::OnDisk { scan: scan.clone(), volume: number, node })
        });
        if all.is_empty() {
            (all, all_contents) = (rows, contents);
        } else {
            all.extend(rows);
            all_contents.extend(contents);
        }
    }
    // Usually they are already sorted. Then no second copy is needed.
    if !all.is_sorted_by(|a, b| rows::compare(a, b).is_le()) {
        let mut both: Vec<_> = all.into_iter().zip(all_contents).collect();
        both.sort_unstable_by(|(a, _), (b, _)| rows::compare(a, b));
        (all, all_contents) = both.into_iter().unzip();
    }
    let volumes: Vec<_> = scan.volumes.iter().map(ScannedVolume::record).collect();
    let devices = Devices { table: &scan.table, volumes: &volumes };
    Ok(Tree::new(all, all_contents, complaints).with_roots(devices))
}
