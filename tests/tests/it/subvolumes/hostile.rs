//! Mount options of an attacker.

use mif_tests::run;

use super::{LINUX, Lab};

#[test]
fn hostile_options_lead_nowhere_and_never_out() {
    let Some(lab) = Lab::new() else { return };
    let script = r#"
sub @; root @ x; sub @/inner; put @/inner/file "inner"; ln -s inner @/loop; ln -s /b a; ln -s /a b; ln -s @/inner to
mkdir plain; put plain/file "plain"; put @/m7/kept "beneath"
cat >@/etc/fstab <<END
LABEL=h / btrfs subvol=@ 0 0
LABEL=h /m0 btrfs subvol=../..
LABEL=h /m1 btrfs subvol=../../@/../@/inner
LABEL=h /m2 btrfs subvol=/a
LABEL=h /m3 btrfs subvol=to
LABEL=h /m4 btrfs subvol=plain
LABEL=h /m5 btrfs subvolid=18446744073709551615
LABEL=h /m6 btrfs subvolid=12345
LABEL=h /m7 btrfs subvol=@/missing
LABEL=h /m8 btrfs subvol=
LABEL=h /m9/m9 btrfs subvol=@
LABEL=h /m9/m9/m9/m9 btrfs subvol=@/inner
END
for i in 0 1 2 3 4 5 6 8 9/m9; do mkdir -p @/m$i; done
"#;
    if !lab.btrfs("h", script) {
        return;
    }
    lab.disk("h", &[("h", LINUX, "")]);
    let options = [
        ("m0", "subvol=../..", "@/etc/hostname", Some("host-x\n")),
        ("m1", "subvol=../../@/../@/inner", "file", Some("inner\n")),
        ("m2", "subvol=/a", "file", None),
        ("m3", "subvol=to", "file", Some("inner\n")),
        ("m4", "subvol=plain", "file", None),
        ("m5", "subvolid=18446744073709551615", "file", None),
        ("m6", "subvolid=12345", "file", None),
        ("m7", "subvol=@/missing", "file", None),
        ("m8", "subvol=", "@/inner/file", None),
    ];
    for (point, option, path, expected) in options {
        let kernel = lab.kernel_reads("h", option, path);
        assert_eq!(kernel.as_deref(), expected, "{option}");
        let output = lab.mif(&["cat", "h", &format!("/{point}/{path}")]).output().unwrap();
        let read = output.status.success().then(|| String::from_utf8(output.stdout).unwrap());
        assert_eq!(read, kernel, "{option}");
    }
    assert_eq!(lab.cat("h", "/m7/kept"), "beneath\n", "what cannot be mounted hides nothing");
    // A subvolume in itself: each level has to be walked.
    assert_eq!(lab.cat("h", "/m9/m9/etc/hostname"), "host-x\n");
    assert_eq!(lab.cat("h", "/m9/m9/m9/m9/file"), "inner\n");
    run(&mut lab.mif(&["ls", "-R", "h"]));
    run(&mut lab.mif(&["search", "/m9/**"]));
}
