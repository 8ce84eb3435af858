//! Links the bare-metal binary by our own script. On the host, where `cargo check` looks at it, nothing is added.

fn main() {
    println!("cargo::rerun-if-changed=link.ld");
    println!("cargo::rerun-if-changed=src/entry.S");
    println!("cargo::rerun-if-changed=build.rs");
    let is_bare_metal = std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "none");
    if is_bare_metal {
        let here = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
        // The target's default is a position-independent executable; GRUB wants fixed addresses.
        for argument in [
            "--no-pie".to_owned(),
            "-znostart-stop-gc".to_owned(),
            "--build-id=none".to_owned(),
            format!("-T{here}/link.ld"),
        ] {
            println!("cargo::rustc-link-arg={argument}");
        }
    }
}
