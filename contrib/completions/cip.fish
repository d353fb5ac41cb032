# fish completion for cip(1); for /usr/share/fish/vendor_completions.d/cip.fish

function __cip_instances
    for socket in /run/container-image-proxy/*.sock
        string replace --regex '.*/(.*)\.sock$' '$1' $socket
    end
end

set --local commands images manifest config verify blob pull unpack ls cat plan watch
set --local none "not __fish_seen_subcommand_from $commands"

complete --command cip --no-files
complete --command cip --long-option instance --exclusive --arguments '(__cip_instances)' --description 'the daemon of this instance'
complete --command cip --long-option socket --require-parameter --force-files --description 'the daemon on this socket'
complete --command cip --long-option url --exclusive --arguments 'http://127.0.0.1:' --description 'the daemon on TCP'
complete --command cip --long-option image --exclusive --description 'an image other than the default one'
complete --command cip --long-option platform --exclusive --arguments 'linux/amd64 linux/arm64 linux/arm/v7' --description 'choose for another platform'
complete --command cip --long-option timeout --exclusive --description 'how long the daemon may be silent'
complete --command cip --long-option json --description 'print JSON for programs'
complete --command cip --long-option quiet --short-option q --description 'show no progress'
complete --command cip --long-option help --short-option h --description 'print the options'
complete --command cip --condition $none --long-option version --description 'print the version'

complete --command cip --condition $none --arguments images --description 'list the images that you may have'
complete --command cip --condition $none --arguments manifest --description 'print the manifest'
complete --command cip --condition $none --arguments config --description 'print the configuration of the image'
complete --command cip --condition $none --arguments verify --description 'say why the image is trusted'
complete --command cip --condition $none --arguments blob --description 'fetch a blob of the image'
complete --command cip --condition $none --arguments pull --description 'fetch the image into an OCI layout'
complete --command cip --condition $none --arguments unpack --description 'make the root file system in a directory'
complete --command cip --condition $none --arguments ls --description 'list files of the image'
complete --command cip --condition $none --arguments cat --description 'print a file of the image'
complete --command cip --condition $none --arguments plan --description 'say what an update would fetch'
complete --command cip --condition $none --arguments watch --description 'say when the digest changes'

complete --command cip --condition '__fish_seen_subcommand_from verify' --long-option signed-by --exclusive --description 'fail unless this one signed it'
complete --command cip --condition '__fish_seen_subcommand_from blob' --long-option output --short-option o --require-parameter --force-files --description 'where to write it'
complete --command cip --condition '__fish_seen_subcommand_from pull' --long-option verify --description 'hash everything here, too'
complete --command cip --condition '__fish_seen_subcommand_from blob pull unpack' --long-option no-sync --description 'do not wait for the disk'
complete --command cip --condition '__fish_seen_subcommand_from pull' --arguments 'oci: dir:'
complete --command cip --condition '__fish_seen_subcommand_from unpack' --arguments '(__fish_complete_directories)'
complete --command cip --condition '__fish_seen_subcommand_from unpack' --long-option replace --description 'exchange what is there'
complete --command cip --condition '__fish_seen_subcommand_from ls' --long-option long --short-option l --description 'with mode, owner, size and time'
complete --command cip --condition '__fish_seen_subcommand_from ls' --long-option recursive --short-option R --description 'with all below'
complete --command cip --condition '__fish_seen_subcommand_from plan' --long-option have --require-parameter --force-files --description 'the image that is there'
complete --command cip --condition '__fish_seen_subcommand_from watch' --long-option interval --exclusive --description 'seconds between two polls'
complete --command cip --condition '__fish_seen_subcommand_from watch' --long-option since --exclusive --description 'the digest that is no news'
complete --command cip --condition '__fish_seen_subcommand_from watch' --long-option once --description 'end after the first change'
