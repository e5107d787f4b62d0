//! Writes the stored corpus of HTTP/1.1 as seeds for the fuzz targets: into `fuzz/corpus`.

use std::path::Path;

use portway_testkit::engine::corpus;

fn main() -> anyhow::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    for (folder, target) in [("hostile", "h1_requests"), ("responses", "h1_responses")] {
        let seeds = root.join("fuzz/corpus").join(target);
        std::fs::create_dir_all(&seeds)?;
        for case in corpus::cases(&root.join("crates/proxy/tests/h1").join(folder))? {
            std::fs::write(seeds.join(case.name), case.payload)?;
        }
    }
    Ok(())
}
