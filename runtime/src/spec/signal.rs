//! Signals by name and number.

const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM", "TERM",
    "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR",
    "SYS",
];
const FIRST_REAL_TIME: i32 = 34;
const LAST_REAL_TIME: i32 = 64;

/// "SIGTERM", "term", "15", "RTMIN+3", "SIGRTMAX-1".
pub fn parse(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse() {
        return (1..=LAST_REAL_TIME).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let synonym = match name {
        "CLD" => "CHLD",
        "IOT" => "ABRT",
        "POLL" => "IO",
        other => other,
    };
    if let Some(index) = NAMES.iter().position(|known| *known == synonym) {
        return Some(index as i32 + 1);
    }
    let offset = |rest: &str, sign: &str| match rest {
        "" => Some(0),
        rest => rest.strip_prefix(sign)?.parse::<i32>().ok(),
    };
    let number = match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
        (Some(rest), _) => FIRST_REAL_TIME + offset(rest, "+")?,
        (_, Some(rest)) => LAST_REAL_TIME - offset(rest, "-")?,
        _ => return None,
    };
    (FIRST_REAL_TIME..=LAST_REAL_TIME).contains(&number).then_some(number)
}

/// The signal that stops a container: the pod's choice, the image's, or SIGTERM.
pub fn stop_signal(config: &cri::ContainerConfig, image: &str) -> i32 {
    let chosen = match config.stop_signal() {
        cri::Signal::RuntimeDefault => None,
        signal => parse_cri(signal),
    };
    chosen.or_else(|| parse(image)).unwrap_or(libc::SIGTERM)
}

/// Whether the kernel drops a signal for the process whose /proc/PID/status this is: the first one of a process namespace gets
/// no signal that it does not handle.
pub fn is_dropped(status: &str, signal: i32) -> bool {
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim();
    let first = field("NSpid:").split_whitespace().last() == Some("1");
    let handled = u64::from_str_radix(field("SigCgt:"), 16).unwrap_or(u64::MAX);
    first && handled & (1 << (signal - 1)) == 0
}

/// The signal in CRI's numbering.
pub fn to_cri(number: i32) -> cri::Signal {
    let all = (1..=65).filter_map(|value| cri::Signal::try_from(value).ok());
    let mut same = all.filter(|signal| parse_cri(*signal) == Some(number));
    same.next().unwrap_or(cri::Signal::RuntimeDefault)
}

/// SIGNAL_SIGRTMINPLUS3 and the like.
fn parse_cri(signal: cri::Signal) -> Option<i32> {
    parse(&signal.as_str_name().replace("SIGNAL_", "").replace("PLUS", "+").replace("MINUS", "-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let texts = ["SIGTERM", "quit", "9", "RTMIN+3", "SIGRTMAX-1", "SIGRTMAX", "0", "65", "FOO", "RTMIN+99", "SIGPOLL"];
        let expected = [Some(15), Some(3), Some(9), Some(37), Some(63), Some(64), None, None, None, None, Some(29)];
        assert_eq!(texts.map(parse), expected);
    }

    #[test]
    fn first_processes_miss_what_they_do_not_handle() {
        let status = |pids: &str, handled: &str| format!("Name:\tx\nNSpid:\t{pids}\nSigIgn:\t0\nSigCgt:\t{handled}\n");
        let term = |pids, handled| is_dropped(&status(pids, handled), libc::SIGTERM);
        assert_eq!(
            [term("77\t1", "0"), term("77\t1", "4000"), term("77\t2", "0"), term("77", "0")],
            [true, false, false, false]
        );
        assert!(!is_dropped("", libc::SIGTERM));
    }

    #[test]
    fn cri_numbers() {
        assert_eq!([15, 3, 37].map(to_cri), [cri::Signal::Sigterm, cri::Signal::Sigquit, cri::Signal::Sigrtminplus3]);
    }

    #[test]
    fn the_pods_choice_wins() {
        let mut config = cri::ContainerConfig::default();
        assert_eq!((stop_signal(&config, ""), stop_signal(&config, "SIGQUIT")), (15, 3));
        config.set_stop_signal(cri::Signal::Sigrtminplus3);
        assert_eq!(stop_signal(&config, "SIGQUIT"), 37);
    }
}
