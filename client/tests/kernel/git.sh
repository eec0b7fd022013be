# A repository on a mount.
#: memory=2048M seconds=600 reference=yes

case_git() {
    local repository=/mnt/repository
    export GIT_CONFIG_GLOBAL=/run/gitconfig GIT_CONFIG_SYSTEM=/dev/null
    git config --global user.name Test
    git config --global user.email test@example.org
    git config --global --add safe.directory '*'
    git config --global init.defaultBranch main
    help tree $repository 150 3
    git -C $repository init -q
    git -C $repository add -A
    git -C $repository commit -qm first
    mount_folder a
    git clone -q --no-local $repository $mounts/a/clone
    cd $mounts/a/clone
    [ -z "$(git status --porcelain)" ]
    git fsck --full --strict
    echo changed >>"$(git ls-files | head -n 1)"
    [ "$(git status --porcelain | wc -l)" = 1 ]
    git commit -qam second
    [ -z "$(git status --porcelain)" ]
    git gc -q
    git fsck --full --strict
    git -C $repository pull -q $mounts/a/clone main
    [ "$(git -C $repository rev-parse HEAD)" = "$(git rev-parse HEAD)" ]
    cd /
    [ -z "$(git -C $served/a/clone status --porcelain)" ]
}
