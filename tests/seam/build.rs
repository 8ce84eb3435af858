//! Links the bare-metal binary as the hypervisor is, by boot's script. On the host nothing is added.

fn main() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../boot/link.ld");
    println!("cargo::rerun-if-changed={script}");
    println!("cargo::rerun-if-changed=../../boot/src/entry.S");
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "none") {
        for argument in [
            "--no-pie",
            "-znostart-stop-gc",
            "--build-id=none",
            &format!("-T{script}"),
        ] {
            println!("cargo::rustc-link-arg={argument}");
        }
    }
}
