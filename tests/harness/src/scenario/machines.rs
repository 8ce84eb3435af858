//! The machines that scenarios name: those of `tests/scenarios/machines.toml`, and Bochs with each of its CPU models.

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use crate::machine::{Emulator, Model, REFUSED_CPUS, SVM_CPUS, VTX_CPUS};

/// The file's machines; Bochs' need no entry.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machines {
    #[serde(default)]
    machine: Vec<Model>,
}

impl Machines {
    /// Reads the file's text.
    ///
    /// # Errors
    /// Not TOML, fields that no machine has, a name used twice or one of Bochs' models, a machine that its emulator
    /// cannot be.
    pub fn parse(text: &str) -> Result<Self> {
        let machines: Self = toml::from_str(text).context("the machines' file is wrong")?;
        for (i, model) in machines.machine.iter().enumerate() {
            let name = &model.name;
            model
                .check()
                .with_context(|| format!("the machine {name}"))?;
            let before = machines.machine.iter().take(i);
            let is_new = before.into_iter().all(|m| m.name != *name) && group(name).is_none();
            ensure!(is_new, "there is another machine {name}");
        }
        Ok(machines)
    }

    /// Returns the machines that `name` stands for.
    ///
    /// # Errors
    /// None.
    pub fn find(&self, name: &str) -> Result<Vec<Model>> {
        if let Some(model) = self.machine.iter().find(|model| model.name == name) {
            return Ok(vec![model.clone()]);
        }
        let Some(cpus) = group(name) else {
            bail!("no machine is called {name}, nor a CPU model of Bochs that is listed");
        };
        let of_bochs = |cpu: &str| Model::new(Emulator::Bochs, cpu);
        Ok(cpus.into_iter().map(of_bochs).collect())
    }
}

/// Returns the CPU models of Bochs that a word stands for.
fn group(name: &str) -> Option<Vec<&'static str>> {
    match name {
        "vtx" => Some(VTX_CPUS.to_vec()),
        "svm" => Some(SVM_CPUS.to_vec()),
        "all" => Some([VTX_CPUS.as_slice(), &SVM_CPUS].concat()),
        _ => {
            let mut known = VTX_CPUS.iter().chain(&SVM_CPUS).chain(&REFUSED_CPUS);
            known.find(|cpu| **cpu == name).map(|&cpu| vec![cpu])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Chipset;

    const Q35: &str =
        "[[machine]]\nname = 'q35'\nemulator = 'qemu'\ncpu = 'EPYC'\nchipset = 'q35'\n";

    #[test]
    fn an_entry_a_model_and_a_group_are_found() {
        let machines = Machines::parse(Q35).unwrap();
        assert_eq!(machines.find("q35").unwrap()[0].chipset, Chipset::Q35);
        assert_eq!(machines.find("ryzen").unwrap()[0].cpu, "ryzen");
        assert_eq!(
            machines.find("all").unwrap().len(),
            VTX_CPUS.len() + SVM_CPUS.len()
        );
        assert!(machines.find("ryzne").is_err());
    }

    #[test]
    fn two_machines_of_a_name_and_impossible_ones_are_refused() {
        assert!(Machines::parse(&Q35.repeat(2)).is_err());
        assert!(Machines::parse(&Q35.replace("name = 'q35'", "name = 'ryzen'")).is_err());
        assert!(Machines::parse(&Q35.replace("'qemu'", "'bochs'")).is_err());
        assert!(Machines::parse(&Q35.replace("chipset", "chip")).is_err());
    }
}
