//! PE programs, as UEFI runs them: the machine and the sections (PE format, "COFF File Header", "Section Table").

use std::ops::Range;

use mif_formats::{Result, at};

/// The most sections.
const MAX_SECTIONS: usize = 96;

/// The machines of programs: the number, the name as `uname -m` has it, and the suffix of UEFI's programs (UEFI
/// specification, 3.5.1.1). Of a machine with several numbers, the first is UEFI's.
const MACHINES: [(u16, &str, &str); 8] = [
    (0x8664, "x86_64", "x64"),
    (0x014c, "i686", "ia32"),
    (0xaa64, "aarch64", "aa64"),
    (0x01c2, "arm", "arm"),
    (0x01c0, "arm", "arm"),
    (0x01c4, "arm", "arm"),
    (0x5064, "riscv64", "riscv64"),
    (0x6264, "loongarch64", "loongarch64"),
];

/// Returns the number of the machine that a program is for, from its first bytes; `None` if it is no PE program.
pub(crate) fn machine(program: &[u8]) -> Option<u16> {
    let header = header(program)?;
    Some(u16::from_le_bytes([*program.get(header + 4)?, *program.get(header + 5)?]))
}

/// Returns the name of a machine.
pub(crate) fn machine_name(number: u16) -> Option<&'static str> {
    MACHINES.iter().find(|(it, ..)| *it == number).map(|(_, name, _)| *name)
}

/// Returns the suffix of UEFI's programs for a machine, and its number.
pub(crate) fn uefi_machine(name: &str) -> Option<(&'static str, u16)> {
    MACHINES.iter().find(|(_, it, _)| *it == name).map(|(number, _, suffix)| (*suffix, *number))
}

/// Returns the offset of the PE header, which the DOS header names.
fn header(program: &[u8]) -> Option<usize> {
    let bytes = program.starts_with(b"MZ").then(|| program.get(0x3c..0x40))??;
    let header = u32::from_le_bytes(bytes.try_into().expect("four bytes")) as usize;
    (program.get(header..header.checked_add(4)?)? == b"PE\0\0").then_some(header)
}

/// A program.
#[derive(Debug)]
pub(crate) struct Program<'b> {
    bytes: &'b [u8],
    /// `Machine`.
    pub(crate) machine: u16,
    sections: Vec<(String, Range<usize>)>,
}

impl<'b> Program<'b> {
    /// Parses a program, whose sections must lie in it.
    pub(crate) fn parse(bytes: &'b [u8]) -> Result<Self> {
        let place = at("PE program");
        let ends = || at("PE program").corrupt("the headers end early");
        if !bytes.starts_with(b"MZ") {
            return Err(place.corrupt("expected MZ at its start"));
        }
        let u16_at = |at: usize| bytes.get(at..at.checked_add(2)?).map(|b| u16::from_le_bytes([b[0], b[1]]));
        let u32_at = |at: usize| {
            bytes.get(at..at.checked_add(4)?).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
        };
        let Some(header) = header(bytes) else {
            return Err(place.corrupt("expected a PE header where the DOS header points"));
        };
        let machine = u16_at(header + 4).ok_or_else(ends)?;
        let count = usize::from(u16_at(header + 6).ok_or_else(ends)?);
        let optional = usize::from(u16_at(header + 20).ok_or_else(ends)?);
        if count > MAX_SECTIONS {
            return Err(place.limit(format!("{count} sections, over the limit of {MAX_SECTIONS}")));
        }
        let mut sections = Vec::new();
        for number in 0..count {
            let entry = header + 24 + optional + 40 * number;
            let name = bytes.get(entry..entry + 8).ok_or_else(ends)?;
            let name = String::from_utf8_lossy(name).trim_end_matches('\0').to_owned();
            let in_memory = u32_at(entry + 8).ok_or_else(ends)? as usize;
            let len = u32_at(entry + 16).ok_or_else(ends)? as usize;
            let start = u32_at(entry + 20).ok_or_else(ends)? as usize;
            // The rest of a section is padding.
            let used = if in_memory == 0 { len } else { len.min(in_memory) };
            let end = start
                .checked_add(used)
                .filter(|_| start.checked_add(len).is_some_and(|end| end <= bytes.len()));
            let end = end.ok_or_else(|| {
                at("PE program")
                    .corrupt(format!("the section {name} ends after the file, which is truncated"))
            })?;
            sections.push((name, start..end));
        }
        Ok(Program { bytes, machine, sections })
    }

    /// Returns the bytes of a section.
    pub(crate) fn section(&self, name: &str) -> Option<&'b [u8]> {
        let (_, range) = self.sections.iter().find(|(it, _)| it == name)?;
        self.bytes.get(range.clone())
    }

    /// Returns true if it contains these bytes.
    pub(crate) fn has(&self, mark: &[u8]) -> bool {
        memchr::memmem::find(self.bytes, mark).is_some()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A program with these sections.
    pub(crate) fn program(machine: u16, sections: &[(&str, &[u8])]) -> Vec<u8> {
        let mut bytes = vec![0; 0x80];
        bytes[..2].copy_from_slice(b"MZ");
        bytes[0x3c] = 0x80;
        bytes.extend(b"PE\0\0");
        bytes.extend(machine.to_le_bytes());
        bytes.extend((sections.len() as u16).to_le_bytes());
        bytes.extend([0; 16]);
        let mut next = bytes.len() + 40 * sections.len();
        for (name, content) in sections {
            let mut entry = [0; 40];
            entry[..name.len()].copy_from_slice(name.as_bytes());
            for (at, value) in [(8, content.len()), (16, content.len()), (20, next)] {
                entry[at..at + 4].copy_from_slice(&(value as u32).to_le_bytes());
            }
            bytes.extend(entry);
            next += content.len();
        }
        sections.iter().for_each(|(_, content)| bytes.extend(*content));
        bytes
    }

    #[test]
    fn sections_are_found_and_a_truncated_program_is_refused() {
        let bytes = program(0x8664, &[(".linux", b"kernel"), (".cmdline", b"root=x")]);
        let parsed = Program::parse(&bytes).unwrap();
        assert_eq!((parsed.machine, parsed.section(".cmdline")), (0x8664, Some(&b"root=x"[..])));
        assert_eq!(parsed.section(".initrd"), None);
        assert!(Program::parse(&bytes[..bytes.len() - 1]).unwrap_err().to_string().contains("truncated"));
        assert!(Program::parse(&bytes[..0x90]).is_err() && Program::parse(b"MZ").is_err());
        let mut far = bytes.clone();
        far[0x3c..0x40].fill(0xff);
        assert!(Program::parse(&far).is_err());
    }
}
