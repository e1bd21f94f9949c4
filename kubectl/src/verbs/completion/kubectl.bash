# Completes command lines of kubectl: `kubectl __complete` says what may come, and what it means.
# For another name of it: complete -o default -F __start_kubectl NAME
__start_kubectl() {
    local program=$1 rest=${COMP_LINE:0:COMP_POINT} words=() part gap
    # An alias is no program.
    type -P "$program" >/dev/null || program=kubectl
    # Bash has broken words at = and : too; put these together again.
    for part in "${COMP_WORDS[@]:0:COMP_CWORD+1}"; do
        gap=${rest%%[![:space:]]*}
        rest=${rest#"$gap"}
        part=${part:0:${#rest}}
        rest=${rest#"$part"}
        part=${part//[\'\"\\]/}
        if [ -z "$gap" ] && [ "${#words[@]}" -gt 0 ]; then
            words[${#words[@]} - 1]+=$part
        else
            words+=("$part")
        fi
    done
    local word=${words[${#words[@]} - 1]} told=() choice
    while IFS= read -r choice; do
        told+=("$choice")
    done < <("$program" __complete "${words[@]:1}" 2>/dev/null)
    COMPREPLY=()
    [ "${#told[@]}" -gt 0 ] || return
    # The last line is a colon and the sum of what else there is to say.
    local last=$((${#told[@]} - 1))
    local sum=${told[last]#:}
    unset "told[last]"
    [ $((sum & 1)) -eq 0 ] || return
    [ $((sum & 2)) -eq 0 ] || compopt -o nospace
    [ $((sum & 4)) -eq 0 ] || compopt +o default
    [ $((sum & 32)) -eq 0 ] || compopt -o nosort
    if [ $((sum & 24)) -ne 0 ]; then
        # Files with one of these endings, and directories.
        compopt -o filenames
        if [ $((sum & 8)) -ne 0 ]; then
            for choice in "${told[@]}"; do
                while IFS= read -r part; do COMPREPLY+=("$part"); done < <(compgen -f -X "!*.$choice" -- "$2")
            done
        fi
        while IFS= read -r part; do COMPREPLY+=("$part"); done < <(compgen -d -- "$2")
        return
    fi
    # A choice stands for the whole word, or for what follows the = of a flag; Bash wants what follows its last break.
    local flag='' about=() width=0
    case $word in -*=*) flag=${word%%=*}= ;; esac
    for choice in "${told[@]}"; do
        part=$flag${choice%%$'\t'*}
        case $part in "$word"*) ;; *) continue ;; esac
        part=${part#"${word%"$2"}"}
        COMPREPLY+=("$part")
        [ "${#part}" -le "$width" ] || width=${#part}
        case $choice in *$'\t'*) about+=("${choice#*$'\t'}") ;; *) about+=('') ;; esac
    done
    # What they mean is shown beside several choices, unless Bash puts them in without showing them.
    case ${#COMPREPLY[@]}:$COMP_TYPE in [01]:* | *:37 | *:42) return ;; esac
    local at
    for at in "${!about[@]}"; do
        [ -n "${about[at]}" ] || continue
        printf -v part '%-*s  (%s)' "$width" "${COMPREPLY[at]}" "${about[at]}"
        COMPREPLY[at]=${part:0:${COLUMNS:-80}}
    done
}
complete -o default -F __start_kubectl kubectl
