//! The demands of a tree on a volume: the limits it must keep, the features it needs, the links of its nodes.

use super::inode;
use super::params::Params;
use crate::error::{Result, at};
use crate::fs::FileType;
use crate::fs::ext4::features::{compat, ro_compat};
use crate::fs::plan::Tree;

/// The most links of a file or directory.
const LINKS_MAX: u32 = 65_000;
const NAME_MAX: usize = 255;

/// Fails if no such volume can hold the tree; sets the features that the tree needs.
pub(super) fn check(tree: &Tree, params: &mut Params) -> Result<()> {
    let mut needs = (false, false);
    for (number, node) in (0..).zip(tree.nodes()) {
        let meta = &node.meta;
        let named = || tree.named(number);
        inode::check(meta, params).map_err(|problem| named().unsupported(problem))?;
        if let Some(child) = node.children.iter().find(|child| child.name.len() > NAME_MAX) {
            return Err(at(format!("\"{}\"", child.name.escape_ascii())).unsupported(format!(
                "the name has {} bytes, over the limit of {NAME_MAX}",
                child.name.len()
            )));
        }
        if meta.file_type == FileType::Symlink {
            let target = meta.link_target.as_deref().unwrap_or_default();
            if target.is_empty() || target.contains(&0) || target.len() >= params.block_size as usize {
                return Err(named().unsupported(format!(
                    "the target of the symlink has {} bytes; expected 1 to {} bytes without a NUL",
                    target.len(),
                    params.block_size - 1
                )));
            }
        }
        needs.0 |= meta.file_type == FileType::File && meta.size > u64::from(u32::MAX >> 1);
        needs.1 |= !meta.xattrs.is_empty();
    }
    for (needed, name, is_set) in [
        (needs.0, "large_file", params.has_ro_compat(ro_compat::LARGE_FILE)),
        (needs.1, "ext_attr", params.has_compat(compat::EXT_ATTR)),
    ] {
        if needed && !is_set {
            if !params.dynamic {
                return Err(at("ext plan").unsupported(format!(
                    "the tree needs the feature {name}, but a volume of revision 0 has no features"
                )));
            }
            params.change_features(name)?;
            params.notes.push(format!("the feature {name} was set, because the tree needs it"));
        }
    }
    Ok(())
}

/// Returns the parent of each directory, and the link count of each node.
pub(super) fn links(tree: &Tree, params: &Params) -> Result<(Vec<u32>, Vec<u16>)> {
    let mut links = vec![0u32; tree.nodes().len()];
    let mut parents = vec![0u32; tree.nodes().len()];
    links[0] = 1;
    for (number, node) in tree.nodes().iter().enumerate() {
        for child in &node.children {
            links[child.node as usize] += 1;
            if tree.nodes()[child.node as usize].meta.file_type == FileType::Dir {
                parents[child.node as usize] = number as u32;
                links[number] += 1;
            }
        }
        if node.meta.file_type == FileType::Dir {
            links[number] += 1; // its own `.`
        }
    }
    let mut counts = Vec::with_capacity(links.len());
    for (number, count) in links.into_iter().enumerate() {
        let is_dir = tree.nodes()[number].meta.file_type == FileType::Dir;
        counts.push(match u16::try_from(count) {
            Ok(count) if u32::from(count) <= LINKS_MAX => count,
            _ if is_dir && params.has_ro_compat(ro_compat::DIR_NLINK) => 1,
            _ if is_dir => {
                return Err(tree.named(number as u32).limit(format!(
                    "has {count} links, over the limit of {LINKS_MAX} without the feature dir_nlink"
                )));
            }
            _ => {
                return Err(tree
                    .named(number as u32)
                    .limit(format!("has {count} hard links, over the limit of {LINKS_MAX}")));
            }
        });
    }
    Ok((parents, counts))
}
