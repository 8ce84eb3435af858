//! Domains' configurations, whole and wrong.

use rustix::time::{ClockId, clock_gettime};

use super::super::{Parsed, Rejected, parse};
use super::*;

const SMALL: &str = "name=\"g\"\nkernel=\"/k\"\nmemory=64\n";

fn read(text: &str, extra: &[&str]) -> Result<Parsed, Rejected> {
    parse("g.cfg", text.as_bytes(), extra, &HostConfig::default())
}

fn read_with(more: &str) -> Result<Parsed, Rejected> {
    read(SMALL, &more.lines().collect::<Vec<_>>())
}

fn told(rejected: &Rejected) -> Vec<(usize, &str)> {
    let told = rejected.errors.iter();
    told.map(|error| (error.line, error.text.as_str()))
        .collect()
}

#[test]
fn the_reference_configuration_is_read() {
    let text = "name=\"domu\"\ntype=\"pvh\"\nkernel=\"/boot/vmlinuz-domu\"\nramdisk=\"/boot/domu.gz\"\n\
        extra=\"console=hvc0 earlyprintk=xen panic=1\"\nmemory=256\nvcpus=1\non_poweroff=\"destroy\"\n\
        on_reboot=\"destroy\"\non_crash=\"destroy\"\n";
    let Parsed { config, warnings } = read(text, &[]).unwrap();
    assert_eq!(warnings, []);
    assert_eq!(
        (
            config.name.as_str(),
            config.memory_kib,
            config.max_memory_kib
        ),
        ("domu", 262_144, 262_144)
    );
    assert_eq!(config.cmdline, "console=hvc0 earlyprintk=xen panic=1");
    assert_eq!((config.vcpus, config.max_vcpus, config.claim), (1, 1, true));
    assert_eq!(config.actions.reboot, Action::Destroy);
}

#[test]
fn words_of_the_command_line_come_last_and_win() {
    let config = read_with("name='other'\nmemory=128\nextra='quiet'\nroot='/dev/xvda ro'")
        .unwrap()
        .config;
    assert_eq!(
        (config.name.as_str(), config.memory_kib),
        ("other", 128 << 10)
    );
    assert_eq!(config.cmdline, "root=/dev/xvda ro quiet");
    let error = read_with("memory='lots'").unwrap_err().errors.remove(0);
    assert_eq!(
        (error.file.as_str(), error.line, error.column),
        ("command line", 1, 8)
    );
}

#[test]
fn everything_a_domain_may_have_is_read() {
    let config = read_with(
        "maxmem=256\nvcpus=2\nmaxvcpus=4\ncpus=['0-1','^0']\ncpuid='host,tm=0'\nuuid='94f18a14-e12c-4e6f-9a1a-9ca8948434ea'\n\
         disk=['phy:/dev/a,xvda,w','vdev=xvdb,access=ro,target=/b']\nvif=['bridge=br0','mac=00:16:3e:1:2:3']\n\
         on_watchdog='restart'\non_reboot='rename-restart'\ntsc_mode='native'\nmax_grant_frames=64\nmax_maptrack_frames=0x400\nclaim_mode=0\n\
         localtime=1\nrtc_timeoffset='-60'\npool='Pool-0'\ncpu_weight=512\ncap=50\nseclabel='a:b:c'\nmax_event_channels=2047\nacpi=1",
    )
    .unwrap();
    assert_eq!(config.warnings.len(), 1, "{:?}", config.warnings);
    let config = config.config;
    assert_eq!(
        (config.vcpus, config.max_vcpus, config.max_memory_kib),
        (2, 4, 256 << 10)
    );
    assert_eq!(
        config
            .hard_affinity
            .iter()
            .map(CpuList::to_string)
            .collect::<Vec<_>>(),
        ["0-1", "^0", "all", "all"]
    );
    assert_eq!(
        (config.disks.len(), config.vifs.len(), config.cpuid.len()),
        (2, 2, 1)
    );
    assert_eq!(config.actions.reboot, Action::RestartRename);
    assert_eq!(
        (config.tsc_mode, config.max_maptrack_frames, config.claim),
        (TscMode::Native, Some(1024), false)
    );
    assert_eq!(
        config.time_offset,
        TimeOffset {
            localtime: true,
            seconds: -60
        }
    );
    assert_eq!(
        config.sched,
        SchedParams {
            weight: Some(512),
            cap: Some(50)
        }
    );
    let kept: DomainConfig =
        serde_json::from_str(&serde_json::to_string(&config).unwrap()).unwrap();
    assert_eq!(kept, config);
}

#[test]
fn unknown_keys_are_warned_of_with_the_nearest_known_one() {
    let warnings = read_with("memmory=3\nvnc=1\nbanana=2").unwrap().warnings;
    let texts: Vec<_> = warnings.iter().map(|w| w.text.as_str()).collect();
    assert_eq!(
        texts,
        [
            "unknown key memmory is ignored; did you mean memory?",
            "vnc has no effect on a PVH guest and is ignored",
            "unknown key banana is ignored",
        ]
    );
}

#[test]
fn what_cannot_be_served_is_refused_with_the_reason() {
    for (more, what) in [
        (
            "type='hvm'",
            "HVM guests are not supported: they need a device model",
        ),
        ("type='pv'", "PV guests are not supported"),
        ("type='foo'", "unknown type"),
        ("builder='hvm'", "HVM guests are not supported"),
        (
            "pci=['0000:00:1.0']",
            "pci: devices cannot be passed through",
        ),
        ("nestedhvm=1", "nested virtualisation"),
        ("hap=0", "shadow page tables"),
        ("memory=0", "from 1 to"),
        ("memory=['1']", "not a list"),
        ("maxmem=32", "less than memory"),
        ("vcpus=4\nmaxvcpus=2", "less than vcpus"),
        ("vcpus=129", "from 1 to 128"),
        ("vcpus=-1", "in quotes"),
        ("name='12'", "domain id"),
        ("name=''", "empty"),
        ("uuid='x'", "no UUID"),
        ("kernel=''", "kernel is missing"),
        ("cpus='x'", "no list of CPUs"),
        ("name='94f18a14-e12c-4e6f-9a1a-9ca8948434ea'", "is a UUID"),
        ("p9=['tag=a']", "give it a disk"),
        ("memory='2G'", "it is in MiB: 2048"),
        ("localtime='yes'", "yes is 1"),
        ("extra='caf\\xe9'", "bytes that are no UTF-8"),
        ("on_crash='explode'", "unknown action"),
        ("disk='a'", "takes a list"),
        ("disk=['a']", "virtual device"),
        ("disk=['/a,,xvda','/b,,xvda']", "the same virtual device"),
        ("vif=['mac=zz']", "no MAC"),
        (
            "vif=['mac=00:16:3e:0:0:1','mac=00:16:3e:0:0:1']",
            "two cards",
        ),
        ("disk+='x'\nvif=1", "takes a list"),
    ] {
        let rejected = read_with(more).unwrap_err();
        let error = &rejected.errors[0];
        assert!(error.text.contains(what), "{more}: {error}");
    }
    assert!(read_with("pci=[]\nnestedhvm=0\nhap=1\ntype='pvh'\nbuilder='linux'").is_ok());
}

#[test]
fn missing_keys_are_named_with_what_stands_in_their_place() {
    for (text, key) in [
        ("kernel='/k'\nmemory=1", "name"),
        ("name='a'\nmemory=1", "kernel"),
        ("name='a'\nkernel='k'", "memory"),
    ] {
        let rejected = read(text, &[]).unwrap_err();
        let [(0, error)] = told(&rejected)[..] else {
            panic!("{rejected:?}")
        };
        assert!(error.starts_with(&format!("{key} is missing")), "{error}");
    }
    let rejected = read("# web\nnmae='a'\nkernal='/k'\nmem=64\nvfi=['']\n", &[]).unwrap_err();
    let told = told(&rejected);
    assert_eq!(
        told[0],
        (
            2,
            "unknown key nmae; did you mean name? name is missing: name = \"web\""
        )
    );
    assert!(
        told[1]
            .1
            .starts_with("unknown key kernal; did you mean kernel? kernel is missing")
    );
    assert!(
        told[2]
            .1
            .starts_with("unknown key mem; did you mean memory? memory is missing")
    );
    assert_eq!(told.len(), 3);
    assert_eq!(
        rejected.warnings[0].text,
        "unknown key vfi is ignored; did you mean vif?"
    );
}

#[test]
fn one_run_tells_everything() {
    let rejected = read_with(
        "vcpus='two'\nmemory=0\ndisk=['/a,raw,xvda','/b,raw,foo','/c,raw,xvda']\nvif=['mac=zz','rate=a']\n\
         on_crash='explode'\npci=['1']\nhap=0\nname=''\nuuid='x'\ncpus='x'\nnonsense=1\nroot='a'\ncmdline='b'",
    )
    .unwrap_err();
    let lines: Vec<_> = told(&rejected).iter().map(|(line, _)| *line).collect();
    assert_eq!(lines, [1, 2, 3, 3, 4, 4, 5, 6, 7, 8, 9, 10]);
    assert_eq!(rejected.warnings.len(), 2, "warnings are told with errors");
    // what could not be read may have what is missing
    let rejected = read("name = web\nkernel='/k'\nvcpus='x'\nmemory=1\n", &[]).unwrap_err();
    let lines: Vec<_> = told(&rejected).iter().map(|(line, _)| *line).collect();
    assert_eq!(lines, [1, 3]);
}

#[test]
fn what_has_no_effect_is_named_unless_it_asks_for_nothing() {
    for (more, what) in [
        ("seclabel='a:b:c'", "no security label"),
        ("max_grant_version=2", "guests get version 1"),
        ("nomigrate=1", "no migration"),
        ("vif2=['a']", "no effect"),
        ("xenstore_feature_mask=1", "no effect"),
        ("acpi=0", "ACPI tables all the same"),
        ("vnc=1", "no effect"),
        ("usbdevice='tablet'", "no USB devices"),
        ("vfb=['vnc=1']", "no frame buffer"),
        ("channel=['name=a']", "no channels"),
        ("vcpus=0", "at least one vCPU"),
        ("cpus=['0','1']", "2 entries for 1 vCPU(s)"),
        ("cpuid='host,foo=1'", "unknown CPUID name"),
        ("vif=['vlan=3']", "no effect"),
        ("disk=['/a,raw,xvda,grant_usage=0']", "disks use grants"),
    ] {
        let warnings = read_with(more).unwrap().warnings;
        assert!(
            warnings.len() == 1 && warnings[0].text.contains(what),
            "{more}: {warnings:?}"
        );
    }
    let nothing = "acpi=1\nvnc=0\nsdl=0\nusb=0\nserial=''\nvfb=[]\nnomigrate=0\nmax_grant_version=1\nusbdevice=''";
    assert_eq!(read_with(nothing).unwrap().warnings, []);
}

#[test]
fn paths_are_bytes_to_the_end() {
    use std::os::unix::ffi::OsStrExt;
    let text = b"name='a'\nmemory=1\nkernel='/caf\xe9/k'\nramdisk=\"/caf\\xe9/r\"\ndisk=['file:/caf\xe9/d,xvda,w']";
    let host = HostConfig::default();
    let config = parse("a", text, &[] as &[&str], &host).unwrap().config;
    let kept: DomainConfig =
        serde_json::from_str(&serde_json::to_string(&config).unwrap()).unwrap();
    assert_eq!(kept, config);
    assert_eq!(kept.kernel.as_os_str().as_bytes(), b"/caf\xe9/k");
    assert_eq!(kept.ramdisk.unwrap().as_os_str().as_bytes(), b"/caf\xe9/r");
    assert_eq!(kept.disks[0].target.as_os_str().as_bytes(), b"/caf\xe9/d");
}

#[test]
fn large_files_take_time_in_proportion() {
    let used = || clock_gettime(ClockId::ThreadCPUTime).tv_sec;
    let before = used();
    let unknown: String = (0..40_000).map(|n| format!("key{n}=1\n")).collect();
    let parsed = read_with(&unknown).unwrap();
    assert_eq!(parsed.warnings.len(), 40_000);
    assert_eq!(parsed.warnings[39_999].line, 40_000);
    let one_line: String = (0..40_000).map(|n| format!("key{n}=1;")).collect();
    assert_eq!(
        read(&(SMALL.to_owned() + &one_line), &[])
            .unwrap()
            .warnings
            .len(),
        40_000
    );
    let wrong: String = (0..40_000).map(|n| format!("key{n}=oops\n")).collect();
    assert_eq!(read_with(&wrong).unwrap_err().errors.len(), 40_000);
    let disks: Vec<_> = (0..20_000).map(|n| format!("'/d{n},raw,d{n},w'")).collect();
    let disks = format!("disk=[{}]", disks.join(","));
    assert_eq!(read_with(&disks).unwrap().config.disks.len(), 20_000);
    // A minute and more before; seconds even in a debug build. What others use of a busy machine does not count.
    assert!(used() - before < 20, "{} s", used() - before);
}

#[test]
fn the_host_gives_what_a_domain_does_not_say() {
    let host = HostConfig {
        claim: Some(false),
        max_grant_frames: Some(7),
        ..HostConfig::default()
    };
    let of = |extra: &[&str]| parse("a", SMALL.as_bytes(), extra, &host).unwrap().config;
    let (plain, own) = (of(&[]), of(&["max_grant_frames=9", "claim_mode=1"]));
    assert_eq!((plain.claim, plain.max_grant_frames), (false, Some(7)));
    assert_eq!((own.claim, own.max_grant_frames), (true, Some(9)));
}

#[test]
fn actions_have_xls_spellings() {
    for (text, action) in [
        ("rename-restart", Action::RestartRename),
        ("coredump-destroy", Action::CoredumpDestroy),
        ("coredump-restart", Action::CoredumpRestart),
        ("soft-reset", Action::SoftReset),
        ("restart_rename", Action::RestartRename),
    ] {
        let config = read_with(&format!("on_crash='{text}'")).unwrap().config;
        assert_eq!(config.actions.crash, action, "{text}");
        assert_eq!(action_of(&action.spelling()), Some(action));
    }
    let error = read_with("on_crash='explode'").unwrap_err();
    assert!(error.errors[0].text.ends_with(
        "destroy, restart, rename-restart, preserve, coredump-destroy, coredump-restart, soft-reset"
    ));
}

#[test]
fn no_text_at_all_panics_the_reader() {
    proptest::proptest!(|(key in "(name|memory|disk|vif|cpus|cpuid|vcpus|uuid|tsc_mode)", value in "[ -~]{0,30}")| {
        let quoted = format!("{key}=\"{}\"", value.replace(['"', '\\'], ""));
        let listed = format!("{key}=[{}]", quoted.split_once('=').map_or("", |(_, v)| v));
        let _first = read_with(&quoted);
        let _second = read_with(&listed);
    });
}
