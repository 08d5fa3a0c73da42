//! `export` and `convert`: write a stored image, or one in another container, to a disk image file. A stored image may
//! be resized or get new identities in the process: that is a rebuild whose result is written but not kept.

use std::io::IsTerminal;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use mif_formats::container::{self, CreateOptions, Format, OpenOptions, Output, OutputKind};
use mif_formats::mif::manifest::Row;
use mif_formats::text::hex;
use mif_formats::{ErrorKind, Slice, Source, partition};
use serde::Serialize;

use crate::compose::staging::Bench;
use crate::deliver::platform::{Form, Platform, Rule};
use crate::deliver::{self, Delivery};
use crate::disk::compare::compare_bits;
use crate::error::{Error, Result};
use crate::image::{OpenImage, Origin};
use crate::rebuild::{Base, Draft, IdsReport, Reshape, Size};
use crate::store::{Provenance, StoredDisk};
use crate::task::progress::{Progress, interrupted};
use crate::tree::new_content::NewContents;
use crate::verbs::inspect::info;
use crate::verbs::transfer::receipt::{Pending, Receipt, digest};

/// Options of `export` and `convert`.
#[derive(Debug, Clone, Default)]
pub struct ExportOptions {
    /// The container format; by default, that of the file's suffix.
    pub format: Option<String>,
    /// Options of the format, as `key=value`.
    pub options: CreateOptions,
    /// The backing file, a disk image: only differences from it are written. For qcow2.
    pub backing: Option<PathBuf>,
    /// Replace an existing file, or overwrite a block device.
    pub force: bool,
    /// Change an existing raw file or block device in place, by writing only the blocks that differ.
    pub rewrite: bool,
    /// Read the output back and compare it with the disk.
    pub verify: bool,
    /// New sizes and identities; only for a stored image.
    pub reshape: Reshape,
    /// The hypervisor or cloud that the file is for, which decides its format, options and size, and perhaps an archive
    /// around it. Options of that archive are among `options`.
    pub target: Option<&'static Platform>,
    /// A file for the receipt, in JSON: the image, the target and its rules, the options, and the digest of the disk.
    pub receipt: Option<PathBuf>,
    /// The command line, for the receipt.
    pub command: Vec<String>,
}

/// The report of `export` and `convert`.
#[derive(Debug, Clone, Serialize)]
pub struct ExportReport {
    /// The image.
    pub image: String,
    /// The file.
    pub output: String,
    /// Its container format.
    pub format: String,
    /// What it was made for, if that was given.
    pub target: Option<&'static str>,
    /// The rules of the target.
    pub rules: &'static [Rule],
    /// The options of the format, those that the rules ask for included, as `key=value`.
    pub options: Vec<String>,
    /// The disk's size in bytes.
    pub disk_size: u64,
    /// The disk's logical sector size in bytes.
    pub sector_size: u32,
    /// The volumes that were rebuilt; all others are identical to those of the image, bit for bit.
    pub planned: Vec<String>,
    /// Side effects of the requested changes, as sentences.
    pub notes: Vec<String>,
    /// The effects of new identities, if any were given.
    pub ids: Option<IdsReport>,
    /// Warnings about the source and about what the output format cannot record, as sentences.
    pub warnings: Vec<String>,
    /// True if it was read back and verified.
    pub verified: bool,
    /// The bytes that differed and were written, if the output was changed in place.
    pub rewritten: Option<u64>,
    /// The bytes that the file occupies on its filesystem.
    pub allocated: u64,
    /// The duration in seconds.
    pub seconds: f64,
}

/// Writes the disk of `image` to `path`: a file, which appears only when it is complete, a block device, or standard
/// output (`-`). Follows a symbolic link.
pub fn export(
    image: &OpenImage,
    path: &Path,
    options: &ExportOptions,
    progress: &dyn Progress,
) -> Result<ExportReport> {
    let started = Instant::now();
    let form = options.target.map(|target| target.form(path)).transpose()?;
    let format =
        container::format_for_output(form.map(|form| form.format).or(options.format.as_deref()), path)?;
    let (mut format_options, settings) = match options.target.zip(form) {
        Some((target, form)) => form.options(target, &options.options)?,
        None => (options.options.clone(), CreateOptions::new()),
    };
    if let Some(base) = &options.backing {
        if format.name() != "qcow2" {
            let problem =
                format!("{}: --backing works with qcow2 only, not with {}", base.display(), format.name());
            return Err(Error::unsupported(problem));
        }
        format_options.push(("backing_file".into(), backing_name(base, path)?));
    }
    // An existing target is what a rewrite is for.
    let mut output = Output::new(path, options.force || options.rewrite)?;
    check_kind(&output, path, format, form, options)?;
    if options.rewrite {
        check_rewrite(path, &output, format, form)?;
    }
    output.limit(image.access());
    let receipt = options.receipt.as_deref();
    let receipt = receipt.map(|path| Pending::new(path, &output, options.force)).transpose()?;
    let mut wanted = options.reshape.clone();
    let mut notes = Vec::new();
    if let Some((target, form)) = options.target.zip(form)
        && let Some(size) = grown(image, target, form, &options.reshape)?
    {
        wanted.size = Some(Size::To(size));
        notes.push(format!(
            "the disk was enlarged to {size} bytes, because {} takes no other size",
            target.title
        ));
    }
    let reshaped = if wanted.is_empty() { None } else { Some(reshape(image, &wanted, progress)?) };
    let disk = match &reshaped {
        Some(reshaped) => reshaped.disk.clone(),
        None => image.disk()?,
    };
    let mut warnings = match &image.origin {
        Origin::File { container } => container.warnings.clone(),
        Origin::Stored { .. } => Vec::new(),
    };
    if let Origin::File { container } = &image.origin {
        notes.extend(container.decrypted.iter().map(|what| format!("written as plaintext: {what}")));
    }
    let sector_size = match disk.sector_size() {
        Some(recorded) => recorded,
        None => partition::read(&*disk)?.sector_size,
    };
    warnings.extend(carry_sector_size(sector_size, format, &mut format_options));
    if let Some((target, form)) = options.target.zip(form)
        && form.rounded(disk.len()) != disk.len()
    {
        let least =
            if form.size_min > 0 { format!(" and at least {}", form.size_min) } else { String::new() };
        let problem = format!(
            "{} takes disks of a multiple of {} bytes{least}, and this one would have {}",
            target.title,
            form.size_step,
            disk.len()
        );
        return Err(Error::usage(problem).advise(format!("Pass --size {}", form.rounded(disk.len()))));
    }
    if let (Some(ids), true) = (&options.reshape.new_ids, format.has_identity()) {
        // The last option given wins, so an explicit `-o seed=` overrides this one.
        format_options.insert(0, ("seed".into(), hex(&ids.seed)));
    }
    let kind = output.kind();
    let check = |written: &Path| match options.verify {
        true => {
            // An archive and what is in it are recognised.
            let format = Some(format.name()).filter(|_| form.is_none_or(|form| !form.wrapper.is_archive()));
            read_back(&*disk, written, path, format, options, progress)
        }
        false => Ok(()),
    };
    let create = |output: &mut Output| match form {
        Some(form) if form.wrapper.is_archive() => {
            let (name, system) = (name_of(image), info::system(image).map_err(Failed::midway)?);
            let delivery = Delivery {
                disk: &*disk,
                format,
                options: &format_options,
                name: &name,
                system: &system,
                image: &image.label,
                layout_digest: layout_digest(image),
                target: options.target.map_or("", |target| target.name),
            };
            deliver::write(&delivery, form, &settings, output, progress).map_err(Failed::midway)
        }
        _ => format.create(&*disk, output, &format_options, progress).map_err(|e| Failed {
            // The device is too small or in use.
            is_untouched: matches!(e.kind(), ErrorKind::Limit | ErrorKind::Denied),
            error: e.into(),
        }),
    };
    progress.stage(if options.rewrite { "rewriting" } else { "writing" }, disk.len());
    let (allocated, rewritten) = if options.rewrite {
        let target = output.target().to_owned();
        let written = container::rewrite(&*disk, &target, progress).map_err(|error| {
            let untouched = matches!(error.kind(), ErrorKind::Limit | ErrorKind::Denied);
            let error = if progress.interrupted() { interrupted() } else { error.into() };
            if untouched { error } else { error.advise("Part of it is rewritten; run the command again") }
        })?;
        check(&target)?;
        (allocated(&target)?, Some(written))
    } else {
        (write(create, output, &check, progress)?, None)
    };
    notes.extend(reshaped.iter().flat_map(|reshaped| reshaped.draft.notes.iter().cloned()));
    if kind == OutputKind::Device {
        notes.extend(rest_of_device(path, disk.len())?);
    }
    let allocated = if kind == OutputKind::Files { allocated } else { disk.len() };
    let report = ExportReport {
        image: image.label.clone(),
        output: path.display().to_string(),
        format: format.name().to_owned(),
        target: options.target.map(|target| target.name),
        rules: options.target.map_or(&[], |target| target.rules),
        options: format_options
            .iter()
            .chain(&settings)
            .map(|(key, value)| format!("{key}={value}"))
            .collect(),
        disk_size: disk.len(),
        sector_size,
        planned: reshaped.as_ref().map_or(Vec::new(), |reshaped| reshaped.draft.planned.clone()),
        notes,
        warnings,
        verified: options.verify,
        rewritten,
        ids: reshaped.as_ref().and_then(|reshaped| reshaped.draft.ids.clone()),
        allocated,
        seconds: started.elapsed().as_secs_f64(),
    };
    if let Some(receipt) = receipt {
        receipt.write(&Receipt {
            tool: Provenance::of("export").tool,
            command: &options.command,
            image: &report.image,
            layout_digest: layout_digest(image),
            output: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            format: &report.format,
            target: report.target,
            rules: report.rules,
            options: &report.options,
            disk_size: report.disk_size,
            sector_size,
            disk_digest: digest(&*disk, progress)?.to_string(),
            planned: &report.planned,
            notes: &report.notes,
            ids: report.ids.as_ref(),
        })?;
    }
    Ok(report)
}

/// Fails if the format cannot be written to this kind of output.
fn check_kind(
    output: &Output,
    path: &Path,
    format: &dyn Format,
    form: Option<&Form>,
    options: &ExportOptions,
) -> Result<()> {
    let (shown, name) = (path.display(), format.name());
    match output.kind() {
        OutputKind::Stream | OutputKind::Device if form.is_some_and(|form| form.wrapper.is_in_place()) => {
            return Err(Error::usage(format!("{shown}: this archive is not written sequentially"))
                .advise("Write it to a file"));
        }
        OutputKind::Files => return Ok(()),
        OutputKind::Stream if std::io::stdout().is_terminal() => {
            return Err(Error::usage("refusing to write a disk image to a terminal"));
        }
        OutputKind::Stream if options.verify => {
            return Err(Error::usage(
                "--verify does not work with standard output, which cannot be read back",
            ));
        }
        OutputKind::Stream | OutputKind::Device if format.is_sequential() => return Ok(()),
        OutputKind::Stream => Err(Error::unsupported(format!(
            "-: a {name} image cannot go to standard output because it is not written sequentially"
        ))),
        OutputKind::Device => Err(Error::unsupported(format!(
            "{shown}: only a raw disk can be written to a block device, not a {name} image"
        ))),
    }
    .map_err(|e: Error| e.advise("Pass -O raw, or write to a file"))
}

/// Fails unless the target exists and is written as a raw disk.
fn check_rewrite(path: &Path, output: &Output, format: &dyn Format, form: Option<&Form>) -> Result<()> {
    let shown = path.display();
    if format.name() != "raw" || form.is_some_and(|form| form.wrapper.is_archive()) {
        return Err(Error::usage(format!("{shown}: only a raw disk can be rewritten in place")));
    }
    match output.kind() {
        OutputKind::Stream => Err(Error::usage("standard output cannot be rewritten in place")),
        _ if !output.target().exists() => Err(Error::input(format!("{shown}: no such file to rewrite"))
            .advise("Leave out --rewrite to create it")),
        _ => Ok(()),
    }
}

/// Returns the bytes that a file occupies on its filesystem.
fn allocated(path: &Path) -> Result<u64> {
    let meta = std::fs::metadata(path).map_err(|e| Error::io(path, &e))?;
    Ok(meta.blocks() * 512)
}

/// Makes the writer record an unusual sector size, in bytes; returns a warning if the format cannot record it.
fn carry_sector_size(size: u32, format: &dyn Format, options: &mut CreateOptions) -> Option<String> {
    const USUAL: u32 = 512;
    const OPTION: &str = "logical_sector_size";
    if size == USUAL {
        return None;
    }
    if format.name() == "vhdx" {
        match options.iter().rev().find(|(key, _)| key == OPTION) {
            None => options.push((OPTION.into(), size.to_string())),
            Some((_, given)) if *given != size.to_string() => {
                return Some(format!("the disk has {size}-byte sectors, but {OPTION}={given} was given"));
            }
            Some(_) => {}
        }
        return None;
    }
    Some(format!(
        "the disk has {size}-byte sectors, which a {} image cannot record: attach it with {size}-byte sectors, or its \
         partitions will not be found. QEMU does so with -device \
         virtio-blk-pci,logical_block_size={size},physical_block_size={size}",
        format.name()
    ))
}

/// The failure of a writer.
struct Failed {
    error: Error,
    /// Whether nothing was written yet.
    is_untouched: bool,
}

impl Failed {
    fn midway(error: Error) -> Self {
        Failed { error, is_untouched: false }
    }
}

/// Writes the output by `create`, and calls `check` on it: before it gets its final name, if possible.
fn write(
    create: impl FnOnce(&mut Output) -> Result<(), Failed>,
    mut output: Output,
    check: &dyn Fn(&Path) -> Result<()>,
    progress: &dyn Progress,
) -> Result<u64> {
    let kind = output.kind();
    let written = create(&mut output);
    let failed = match written {
        _ if progress.interrupted() => interrupted(),
        Ok(()) => {
            let (target, early) = (output.target().to_owned(), output.temporary().is_some());
            output.temporary().map_or(Ok(()), check)?;
            match output.commit() {
                Ok(allocated) if early || kind == OutputKind::Stream => return Ok(allocated),
                Ok(allocated) => return check(&target).map(|()| allocated),
                Err(e) => e.into(),
            }
        }
        Err(Failed { is_untouched: true, error }) => return Err(error),
        Err(Failed { error, .. }) => error,
    };
    Err(match kind {
        OutputKind::Device => failed.advise("The device may be partly overwritten; write it again"),
        OutputKind::Files | OutputKind::Stream => failed,
    })
}

/// Returns a note for the report if the device is larger than the disk.
fn rest_of_device(path: &Path, disk_size: u64) -> Result<Option<String>> {
    let rest = open_written(path, Some("raw"), None)?.len() - disk_size;
    Ok((rest > 0)
        .then(|| format!("the device is {rest} bytes larger than the disk; those bytes were left unchanged")))
}

fn open_written(path: &Path, format: Option<&str>, backing: Option<&Path>) -> Result<Arc<dyn Source>> {
    let allow_paths = backing.and_then(|base| base.canonicalize().ok()?.parent().map(Path::to_owned));
    let open = OpenOptions {
        format: format.map(str::to_owned),
        allow_paths: allow_paths.into_iter().collect(),
        ..OpenOptions::default()
    };
    Ok(container::open(path, &open)?.source)
}

/// Compares the output, currently at `written`, with the disk. Errors name it by `path`.
fn read_back(
    disk: &dyn Source,
    written: &Path,
    path: &Path,
    format: Option<&str>,
    options: &ExportOptions,
    progress: &dyn Progress,
) -> Result<()> {
    let written = open_written(written, format, options.backing.as_deref())?;
    // A device may be larger than the disk, and a container rounds up to whole sectors.
    let written = Slice::new(&*written, 0..disk.len())?;
    match compare_bits(disk, &written, "reading back", progress)?.first {
        None => Ok(()),
        Some(first) => Err(Error::store(format!(
            "{}: verification failed: the file differs from the disk, first at byte {first} of the disk",
            path.display()
        ))),
    }
}

/// A disk with new sizes or identities. Its new objects are removed with the bench.
struct Reshaped<'s> {
    draft: Draft,
    disk: Arc<dyn Source>,
    _bench: Bench<'s>,
}

fn reshape<'i>(image: &'i OpenImage, reshape: &Reshape, progress: &dyn Progress) -> Result<Reshaped<'i>> {
    let Origin::Stored { stored, objects, .. } = &image.origin else {
        return Err(Error::usage("only an image in the store can be resized or given new identities")
            .advise("Import it first, with `mif import`"));
    };
    progress.stage("planning", 0);
    let base = Base::new(Bench::scratch(objects.clone())?, stored)?;
    let writer = base.writer()?;
    let rows: Vec<&Row> = base.rows.iter().collect();
    let mut draft = base.draft(&rows, &NewContents::new(), &[], reshape, &writer, progress)?;
    base.finish(writer, [&mut draft])?;
    let rows: Vec<&Row> = base.rows.iter().collect();
    base.read_back(&draft, &rows)?;
    let disk = StoredDisk::new(draft.layout.clone(), base.objects);
    let disk = Arc::new(disk.with_sectors_of(draft.sector_size));
    Ok(Reshaped { draft, disk, _bench: base.bench })
}

/// Returns the size that a stored disk must be enlarged to for the target, unless the user gives it a size.
fn grown(image: &OpenImage, target: &Platform, form: &Form, reshape: &Reshape) -> Result<Option<u64>> {
    if reshape.size.is_some() || !reshape.resize.is_empty() {
        return Ok(None);
    }
    let size = image.disk()?.len();
    let rounded = form.rounded(size);
    if rounded == size {
        return Ok(None);
    }
    if matches!(image.origin, Origin::File { .. }) {
        let problem = format!("{}: {} does not take a disk of {size} bytes", image.label, target.title);
        return Err(Error::usage(problem).advise("Import it first: the export then enlarges it"));
    }
    Ok(Some(rounded))
}

/// Returns the digest of a stored image's layout, which identifies its bits.
fn layout_digest(image: &OpenImage) -> Option<&str> {
    match &image.origin {
        Origin::Stored { stored, .. } => Some(&stored.image.layout_digest),
        Origin::File { .. } => None,
    }
}

/// Returns the name of a stored image without its version, or the stem of a file.
fn name_of(image: &OpenImage) -> String {
    match &image.origin {
        Origin::Stored { stored, .. } => stored.image.name.clone(),
        Origin::File { .. } => {
            Path::new(&image.label).file_stem().unwrap_or_default().to_string_lossy().into_owned()
        }
    }
}

/// Returns the name of the backing file in the image at `output`: a relative path if it is under the same directory, so
/// that both can be moved together; otherwise, or if `output` is a symbolic link, its absolute path.
fn backing_name(base: &Path, output: &Path) -> Result<String> {
    let found = base.canonicalize().map_err(|e| Error::io(base, &e))?;
    let folder = match output.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let folder = folder.canonicalize().map_err(|e| Error::io(folder, &e))?;
    // A relative name would mean another file if the image is opened through a link from elsewhere.
    let is_link = output.is_symlink();
    let name = found.strip_prefix(&folder).ok().filter(|_| !is_link).unwrap_or(&found);
    let name = name.to_str().ok_or_else(|| {
        Error::unsupported(format!("{}: the path of a backing file must be UTF-8", base.display()))
    })?;
    // A colon before the first slash would end the name of a protocol.
    let has_protocol = name.split('/').next().is_some_and(|first| first.contains(':'));
    Ok(if has_protocol { format!("./{name}") } else { name.to_owned() })
}
