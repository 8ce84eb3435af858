//! Links every kernel at its fixed address, by guest-rt's linker script.

fn main() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../guest-rt/guest.ld");
    println!("cargo:rerun-if-changed={script}");
    if std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "none") {
        for argument in [
            "--no-pie",
            "--build-id=none",
            "-znorelro",
            &format!("-T{script}"),
        ] {
            println!("cargo:rustc-link-arg-bins={argument}");
        }
    }
}
