//! Gives the shared library the name by which programs ask for it at run time.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let linux = std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|system| system == "linux");
    if linux {
        println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libvmm.so.0");
    }
}
